//! Smaller commands about the machine: sysctl, lsmod, lspci, clocks, certificates, KVM.

use super::{parse_size, value_of};

/// What `timedatectl` and `chronyc tracking` say of the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClockState {
    /// Whether it is synchronised.
    pub is_synchronised: Option<bool>,
    /// How far it is off, seconds, without sign.
    pub offset_secs: Option<f64>,
}

/// A PCI device with the driver it is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciRow {
    /// Address, for example `0000:3b:00.0` or `3b:00.0`.
    pub address: String,
    /// What it is.
    pub text: String,
    /// Driver in use. `None` when it has none.
    pub driver: Option<String>,
}

/// A line of `virt-host-validate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCheck {
    /// What was checked.
    pub what: String,
    /// `PASS`, `WARN` or `FAIL`.
    pub result: String,
    /// What it says besides.
    pub detail: Option<String>,
}

/// A device node as `ls -l` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    /// Path.
    pub path: String,
    /// Whether it is a character device.
    pub is_character: bool,
    /// Whether it is a block device.
    pub is_block: bool,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (String, String),
    /// Major and minor number.
    pub device: Option<(u32, u32)>,
}

/// Memory of `free`, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeMemory {
    /// All there is.
    pub total_bytes: u64,
    /// What can be had without swapping.
    pub available_bytes: Option<u64>,
}

/// `a.b = 1` and `/proc/sys/a/b: 1` pairs, keys with dots.
#[must_use]
pub fn parse_sysctl(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim();
            let (key, value) =
                line.split_once(" = ").or_else(|| line.split_once('=')).or_else(|| line.split_once(": "))?;
            let key = key.trim().trim_start_matches("/proc/sys/").replace('/', ".");
            let is_key =
                key.contains('.') && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            is_key.then(|| (key, value.trim().to_owned()))
        })
        .collect()
}

/// Names of loaded modules, of `lsmod` or `/proc/modules`; `None` when the text is neither.
#[must_use]
pub fn parse_lsmod(text: &str) -> Option<Vec<String>> {
    let has_header = text.lines().any(|line| line.starts_with("Module ") && line.contains("Used by"));
    let rows: Vec<String> = text
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, size, used, ..] = words.as_slice() else { return None };
            size.parse::<u64>().ok()?;
            used.parse::<i32>().ok()?;
            Some((*name).to_owned())
        })
        .collect();
    (has_header || rows.len() > 3).then_some(rows)
}

/// The devices of `lspci -k`.
#[must_use]
pub fn parse_lspci(text: &str) -> Vec<PciRow> {
    let mut rows: Vec<PciRow> = Vec::new();
    for line in text.lines() {
        if let Some(driver) = line.trim().strip_prefix("Kernel driver in use: ") {
            if let Some(row) = rows.last_mut() {
                row.driver = Some(driver.trim().to_owned());
            }
        } else if let Some((address, what)) = line.split_once(' ')
            && address.len() >= 7
            && address.contains(':')
            && address.contains('.')
            && address.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte))
        {
            rows.push(PciRow { address: address.to_owned(), text: what.to_owned(), driver: None });
        }
    }
    rows
}

/// The clock; `None` when the text says nothing of it.
#[must_use]
pub fn parse_clock_state(text: &str) -> Option<ClockState> {
    let yes = |word: &str| match word {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    };
    let timedatectl =
        ["System clock synchronized", "NTP synchronized"].iter().find_map(|key| yes(value_of(text, key)?));
    let leap = value_of(text, "Leap status").map(|status| status == "Normal" || status.ends_with("second"));
    // `System time     : 0.000012 seconds fast of NTP time`.
    let offset = value_of(text, "System time").and_then(|value| value.split_whitespace().next()?.parse::<f64>().ok());
    let state = ClockState { is_synchronised: timedatectl.or(leap), offset_secs: offset.map(f64::abs) };
    (state != ClockState::default()).then_some(state)
}

/// `notBefore` and `notAfter` of `openssl x509 -dates` or `-text`, Unix time in microseconds; of the first certificate.
#[must_use]
pub fn parse_certificate_dates(text: &str) -> Option<(Option<i64>, Option<i64>)> {
    let date = |keys: [&str; 2]| {
        let value = text.lines().map(str::trim).find_map(|line| {
            let rest = keys.iter().find_map(|key| line.strip_prefix(key))?;
            rest.trim_start().strip_prefix(['=', ':'])
        })?;
        // `Nov 21 05:00:00 2026 GMT`: the year stands behind the time.
        let words: Vec<&str> = value.split_whitespace().collect();
        let [month, day, clock, year, ..] = words.as_slice() else { return None };
        crate::log::parse_stamp(&format!("Sat {month} {day} {clock} {year}"), 0)
    };
    let dates = (date(["notBefore", "Not Before"]), date(["notAfter", "Not After"]));
    (dates != (None, None)).then_some(dates)
}

/// Sockets in kubelet's `device-plugins` folder, as `ls` lists them; `None` when kubelet's own is not among them: another folder,
/// half a listing, or a kubelet that does not run.
#[must_use]
pub fn parse_device_plugins(text: &str) -> Option<Vec<String>> {
    let is_name = |word: &&str| word.ends_with(".sock") && !word.contains(['"', ':', ',']);
    let names: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with("ls: "))
        .flat_map(str::split_whitespace)
        .filter(is_name)
        .map(|word| word.rsplit('/').next().unwrap_or(word).to_owned())
        .collect();
    names.iter().any(|name| name == "kubelet.sock").then_some(names)
}

/// Whether KVM's module lets guests nest: `Y`, `1`, `N`, `0` of `/sys/module/kvm_*/parameters/nested`, with or without the path
/// that `grep .` puts before it.
#[must_use]
pub fn parse_nested(text: &str) -> Option<bool> {
    text.lines().map(str::trim).find_map(|line| {
        // `options kvm_intel nested=1` is what shall be, and not what is.
        let word = if line.contains("/parameters/nested") { line.rsplit([':', ' ']).next()? } else { line };
        match word {
            "Y" | "y" | "1" => Some(true),
            "N" | "n" | "0" => Some(false),
            _ => None,
        }
    })
}

/// SELinux's mode, of `getenforce` or `sestatus`: `Enforcing`, `Permissive`, `Disabled`.
#[must_use]
pub fn parse_selinux_mode(text: &str) -> Option<&'static str> {
    let status =
        value_of(text, "Current mode").or_else(|| value_of(text, "SELinux status").filter(|word| *word == "disabled"));
    let word = status.or_else(|| text.lines().map(str::trim).find(|line| !line.is_empty()))?;
    ["Enforcing", "Permissive", "Disabled"].into_iter().find(|mode| mode.eq_ignore_ascii_case(word))
}

/// The checks of `virt-host-validate`.
#[must_use]
pub fn parse_host_checks(text: &str) -> Vec<HostCheck> {
    text.lines()
        .filter_map(|line| {
            let (driver, rest) = line.trim().split_once(": Checking ")?;
            let (what, result) = rest.rsplit_once(" : ")?;
            let (result, detail) =
                result.split_once(" (").map_or((result, None), |(word, detail)| (word, Some(detail)));
            matches!(result.trim(), "PASS" | "WARN" | "FAIL").then(|| HostCheck {
                what: format!("{driver}: {}", what.trim()),
                result: result.trim().to_owned(),
                detail: detail.map(|detail| detail.trim_end_matches(')').to_owned()),
            })
        })
        .collect()
}

/// Device nodes of `ls -l`.
#[must_use]
pub fn parse_device_nodes(text: &str) -> Vec<DeviceRow> {
    text.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let bits = words.first().filter(|bits| bits.len() >= 10 && bits.starts_with(['c', 'b']))?;
            let mode = bits.bytes().skip(1).take(9).fold(0_u32, |mode, bit| mode << 1 | u32::from(bit != b'-'));
            // `10, 232` stands anywhere behind the owner: some `ls` print a size column before it.
            let comma = words.iter().position(|word| word.ends_with(','));
            let device = comma
                .and_then(|at| Some((words[at].trim_end_matches(',').parse().ok()?, words.get(at + 1)?.parse().ok()?)));
            Some(DeviceRow {
                path: words.iter().find(|word| word.starts_with('/')).or(words.last())?.to_string(),
                is_character: bits.starts_with('c'),
                is_block: bits.starts_with('b'),
                mode,
                owner: ((*words.get(2)?).to_owned(), (*words.get(3)?).to_owned()),
                device,
            })
        })
        .collect()
}

/// Memory of `free` in any unit; a plain number counts KiB.
#[must_use]
pub fn parse_free(text: &str) -> Option<FreeMemory> {
    let header: Vec<&str> =
        text.lines().find(|line| line.contains("total") && line.contains("used"))?.split_whitespace().collect();
    let row: Vec<&str> =
        text.lines().find_map(|line| line.trim_start().strip_prefix("Mem:"))?.split_whitespace().collect();
    let get = |name: &str| parse_size(row.get(header.iter().position(|word| *word == name)?)?, 1024);
    Some(FreeMemory { total_bytes: get("total")?, available_bytes: get("available") })
}

/// Load of the last minute, of `uptime` or `/proc/loadavg`.
#[must_use]
pub fn parse_load(text: &str) -> Option<f64> {
    let rest = text.split_once("load average: ").map_or(text, |(_, rest)| rest);
    rest.split_whitespace().next()?.trim_end_matches(',').parse().ok()
}

/// What `curl` got of a health endpoint: whether it is `ok`, the exit code of curl if it was kept, and the HTTP status if told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Healthz {
    /// The body is `ok`.
    pub is_ok: bool,
    /// Exit code of curl: 7 could not connect, 28 timed out.
    pub curl_exit: Option<i32>,
    /// HTTP status.
    pub http_status: Option<u16>,
}

/// `ok`, `ok rc=0`, ` rc=7`, or the words of curl. `None` when the text is none of these.
#[must_use]
pub fn parse_healthz(text: &str) -> Option<Healthz> {
    let exit = text.split_whitespace().find_map(|word| word.strip_prefix("rc=")?.parse().ok());
    let curl = text.split_once("curl: (").and_then(|(_, rest)| rest.split(')').next()?.parse().ok());
    let status =
        text.lines().find_map(|line| line.trim().strip_prefix("HTTP/")?.split_whitespace().nth(1)?.parse().ok());
    let is_ok = text.split_whitespace().next() == Some("ok") || text.lines().any(|line| line.trim() == "ok");
    let healthz = Healthz { is_ok, curl_exit: exit.or(curl), http_status: status };
    (healthz != Healthz::default()).then_some(healthz)
}
