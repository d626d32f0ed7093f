//! DRBD: whether a device is connected and whether it has suspended I/O.
//!
//! Sources: `/proc/drbd` of version 8 (`drbd_proc.c`), debugfs `drbd/minors/N` of version 9, which is a link to
//! `drbd/resources/NAME/volumes/V` (`drbd_debugfs.c`: `io_frozen`; `connections/PEER/V/proc_drbd`).

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
    /// Peers, with the state of the connection to each: `Connected`, `Connecting`. Version 8 does not name its one peer.
    pub peers: Vec<(String, String)>,
}

/// Whether `io_frozen` says that I/O is suspended. `None` when it does not say.
pub fn parse_drbd_frozen(text: &str) -> Option<bool> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("drbd_suspended():"))?.trim();
    value.parse::<u32>().ok().map(|value| value != 0)
}

/// Parses a line ` 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----`: minor, state of the connection,
/// state of the own disk, whether I/O is suspended. `None` for another line.
pub fn parse_drbd_line(line: &str) -> Option<(u32, String, Option<String>, Option<bool>)> {
    let (minor, rest) = line.split_once(':')?;
    let minor = minor.trim().parse().ok()?;
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key));
    let connection = value("cs:")?.to_owned();
    let disk = value("ds:").and_then(|both| both.split('/').next()).map(str::to_owned);
    // The flags stand last: `r` runs, `s` suspended.
    let is_suspended = words.last().filter(|flags| flags.len() >= 5 && !flags.contains(':')).and_then(|flags| {
        match flags.as_bytes()[0] {
            b's' => Some(true),
            b'r' => Some(false),
            _ => None,
        }
    });
    Some((minor, connection, disk, is_suspended))
}

/// The devices of `/proc/drbd`; empty for version 9, which prints only its version there.
pub fn parse_proc_drbd(text: &str) -> Vec<DrbdDevice> {
    let device = |line| {
        let (minor, connection, disk, is_suspended) = parse_drbd_line(line)?;
        (connection != "Unconfigured").then(|| DrbdDevice {
            minor,
            resource: None,
            is_suspended,
            disk,
            peers: vec![("the peer".to_owned(), connection)],
        })
    };
    text.lines().filter_map(device).collect()
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
        let text = word(root, format!("{base}/connections/{peer}/{volume}/proc_drbd")).unwrap_or_default();
        if let Some((_, connection, disk, is_suspended)) = text.lines().find_map(parse_drbd_line) {
            device.disk = device.disk.take().or(disk);
            device.is_suspended = device.is_suspended.or(is_suspended);
            device.peers.push((peer, connection));
        }
    }
    Ok(Some(device))
}
