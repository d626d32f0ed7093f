//! libvirt's file about a running domain, as far as it tells of a job.
//!
//! Read line by line, as libvirt writes one element a line with single quotes; what stands in the domain's own definition, which
//! its owner writes, comes after the element `domain` and is not taken for libvirt's word.

use crate::Malformed;

/// What libvirt keeps about a running domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainStatus {
    /// Name of the domain.
    pub name: String,
    /// UUID of the domain, lower-case with dashes.
    pub uuid: String,
    /// `running`, `paused` …
    pub state: String,
    /// The reason of the state: `booted`, `migration`, `migrated` …
    pub reason: String,
    /// Pid of its QEMU, in libvirt's pid namespace.
    pub pid: Option<u32>,
    /// The long job under way.
    pub job: Option<DomainJob>,
}

/// A long job of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainJob {
    /// `migration out`, `migration in`, `save`, `dump`, `snapshot`, `start`, `backup`.
    pub kind: String,
    /// Of a migration: `begin3`, `perform3`, `prepare`, `finish3`, `postcopy_failed` … Empty where there is none.
    pub phase: String,
    /// Its begin, Unix time in ms; `None` from older libvirts.
    pub began_ms: Option<u64>,
    /// The bandwidth limit that QEMU had when the job began, bytes per second.
    pub max_bandwidth_bytes: Option<u64>,
}

/// Parses `/run/libvirt/qemu/NAME.xml`.
///
/// # Errors
/// Where it is no such file, or names no domain.
pub fn parse_domain_status(text: &str) -> Result<DomainStatus, Malformed> {
    let mut status = DomainStatus::default();
    let mut is_found = false;
    let mut is_in_job = false;
    let mut is_in_domain = false;
    for line in text.lines().map(str::trim_start) {
        if is_in_domain {
            if let Some(name) = element(line, "name").filter(|_| status.name.is_empty()) {
                status.name = unescape(name);
            }
            if let Some(uuid) = element(line, "uuid") {
                status.uuid = uuid.to_ascii_lowercase();
                break;
            }
        } else if line.starts_with("<domain ") {
            is_in_domain = true;
        } else if let Some(rest) = line.strip_prefix("<domstatus ") {
            is_found = true;
            status.state = value(rest, "state").unwrap_or_default().to_owned();
            status.reason = value(rest, "reason").unwrap_or_default().to_owned();
            status.pid = value(rest, "pid").and_then(|pid| pid.parse().ok());
        } else if let Some(rest) = line.strip_prefix("<job ") {
            is_in_job = !rest.trim_end().ends_with("/>");
            status.job = value(rest, "async").filter(|kind| *kind != "none").map(|kind| DomainJob {
                kind: kind.to_owned(),
                phase: value(rest, "phase").unwrap_or_default().to_owned(),
                began_ms: value(rest, "asyncStarted").and_then(|began| began.parse().ok()),
                max_bandwidth_bytes: None,
            });
        } else if line.starts_with("</job>") {
            is_in_job = false;
        } else if is_in_job
            && let Some(rest) = line.strip_prefix("<param ")
            && value(rest, "name") == Some("max-bandwidth")
            && let Some(job) = &mut status.job
        {
            job.max_bandwidth_bytes = value(rest, "value").and_then(|bytes| bytes.parse().ok());
        }
    }
    if !is_found || status.name.is_empty() || status.uuid.is_empty() {
        return Err(Malformed::new(1, text.lines().next().unwrap_or_default()));
    }
    Ok(status)
}

/// The value of an attribute, ` name='value'`.
fn value<'a>(attributes: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = attributes;
    loop {
        let (key, after) = rest.split_once("='")?;
        let (value, next) = after.split_once('\'')?;
        if key.trim_start() == name {
            return Some(value);
        }
        rest = next;
    }
}

/// The text of an element that stands on one line.
fn element<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let text = line.strip_prefix('<')?.strip_prefix(name)?.strip_prefix('>')?;
    Some(text.split_once("</")?.0)
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'").replace("&amp;", "&")
}
