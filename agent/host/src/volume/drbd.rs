//! DRBD: whether a device is connected and whether it has suspended I/O.
//!
//! Sources: `/proc/drbd` of version 8 (`drbd_proc.c`), debugfs `drbd/minors/N` of version 9, which is a link to
//! `drbd/resources/NAME/volumes/V` (`drbd_debugfs.c`: `io_frozen`; `connections/PEER/V/proc_drbd`). Both print a line of one form,
//! but `cs:` is the state of the connection in version 8, and that of the replication of one volume in version 9.

use super::{names, word};
use crate::{HostRoot, ReadError};

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrbdDevice {
    /// Minor number: `/dev/drbd1000` has 1000.
    pub minor: u32,
    /// Name of the resource; `None` for version 8, which does not say.
    pub resource: Option<String>,
    /// Whether I/O is suspended. `None` where it could not be read.
    pub is_suspended: Option<bool>,
    /// State of the own disk: `UpToDate`, `Diskless`.
    pub disk: Option<String>,
    /// Those that it is replicated to.
    pub peers: Vec<DrbdPeer>,
}

/// A peer of one device. Each value is `None` where it could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrbdPeer {
    /// Its name; version 8 does not name its one peer.
    pub name: String,
    /// Version 8: of the connection and, while there is one, of the replication: `WFConnection`, `Connected`, `SyncSource`.
    /// Version 9: of the replication alone: `Off`, `Established`, `SyncSource`.
    pub state: Option<String>,
    /// `Primary`, `Secondary`; `Unknown` while there is no connection (`sanitize_state` of `drbd_state.c`).
    pub role: Option<String>,
}

/// Whether `io_frozen` says that I/O is suspended. `None` when it does not say.
pub fn parse_drbd_frozen(text: &str) -> Option<bool> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("drbd_suspended():"))?.trim();
    value.parse::<u32>().ok().map(|value| value != 0)
}

/// Parses a line ` 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----`: a device with one peer, which it does
/// not name. `None` for another line.
pub fn parse_drbd_line(line: &str) -> Option<DrbdDevice> {
    let (minor, rest) = line.split_once(':')?;
    let minor = minor.trim().parse().ok()?;
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key));
    // The own, then the peer's.
    let both = |key: &str| value(key).map(|both| both.split_once('/').unwrap_or((both, "")));
    let role = both("ro:").map(|(_, peers)| peers.to_owned()).filter(|role| !role.is_empty());
    // The flags stand last: `r` runs, `s` suspended.
    let is_suspended = words.last().filter(|flags| flags.len() >= 5 && !flags.contains(':')).and_then(|flags| {
        match flags.as_bytes()[0] {
            b's' => Some(true),
            b'r' => Some(false),
            _ => None,
        }
    });
    Some(DrbdDevice {
        minor,
        resource: None,
        is_suspended,
        disk: both("ds:").map(|(own, _)| own.to_owned()),
        peers: vec![DrbdPeer { name: "the peer".to_owned(), state: Some(value("cs:")?.to_owned()), role }],
    })
}

/// The devices of `/proc/drbd`; empty for version 9, which prints only its version there.
pub fn parse_proc_drbd(text: &str) -> Vec<DrbdDevice> {
    let is_set_up = |device: &DrbdDevice| device.peers.iter().all(|peer| peer.state.as_deref() != Some("Unconfigured"));
    text.lines().filter_map(parse_drbd_line).filter(is_set_up).collect()
}

/// What is known of the device with this minor number. `None`: neither version lists it.
///
/// # Errors
/// `Denied` when it is version 9 and debugfs is closed to us.
pub fn read_drbd_device(root: &HostRoot, minor: u32) -> Result<Option<DrbdDevice>, ReadError> {
    let version_8 = root.read_text_if_any("proc/drbd")?.map(|text| parse_proc_drbd(&text)).unwrap_or_default();
    if let Some(device) = version_8.into_iter().find(|device| device.minor == minor) {
        return Ok(Some(device));
    }
    let directory = "sys/kernel/debug/drbd";
    let link = match root.read_link(format!("{directory}/minors/{minor}")) {
        Ok(link) => link,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let parts: Vec<String> = link.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let after = |name: &str| parts.iter().position(|part| part == name).and_then(|at| parts.get(at + 1)).cloned();
    let (Some(resource), Some(volume)) = (after("resources"), after("volumes")) else { return Ok(None) };
    let base = format!("{directory}/resources/{resource}");
    let frozen = word(root, format!("{base}/volumes/{volume}/io_frozen"));
    let mut device = DrbdDevice {
        minor,
        is_suspended: frozen.as_deref().and_then(parse_drbd_frozen),
        resource: Some(resource),
        disk: None,
        peers: Vec::new(),
    };
    for peer in names(root, &format!("{base}/connections")) {
        let text = match root.read_text_if_any(format!("{base}/connections/{peer}/{volume}/proc_drbd")) {
            Ok(Some(text)) => text,
            Ok(None) => continue,
            Err(_) => String::new(),
        };
        let told = text.lines().find_map(parse_drbd_line).unwrap_or_default();
        device.disk = device.disk.take().or(told.disk);
        device.is_suspended = device.is_suspended.or(told.is_suspended);
        let DrbdPeer { state, role, .. } = told.peers.into_iter().next().unwrap_or_default();
        device.peers.push(DrbdPeer { name: peer, state, role });
    }
    Ok(Some(device))
}
