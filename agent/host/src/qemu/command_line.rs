//! What a QEMU was started with, as far as diagnosis asks.
//!
//! QEMU has two notations, `key=value` lists in which a comma is doubled, and JSON; libvirt uses both in one command line.
//! Nothing here fails: an option that cannot be read is as if it were not there. Source: `qemu(1)`.

use super::disk::{Disk, disk_from_blockdev, disk_from_drive};

/// What a command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// Name of the guest: libvirt's domain; in a KubeVirt launcher `namespace_name`.
    pub name: Option<String>,
    /// UUID of the machine: libvirt's domain; in KubeVirt the firmware's, not the VMI's.
    pub uuid: Option<String>,
    /// Where the guest's state comes from when it does not boot: `defer` and URIs mark a migration's target.
    pub incoming: Option<String>,
    /// Whether it starts paused, as libvirt always has it.
    pub is_started_paused: bool,
    /// Machine type: `pc-q35-10.0`.
    pub machine: Option<String>,
    /// Accelerators, first choice first: `kvm`, `tcg`.
    pub accelerators: Vec<String>,
    /// Memory the guest starts with, bytes.
    pub memory_bytes: Option<u64>,
    /// Disks, floppies and CD-ROMs that have a file, a device or a server behind them.
    pub disks: Vec<Disk>,
    /// How its monitor is reached.
    pub monitor: Option<Monitor>,
}

/// How a monitor is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Monitor {
    /// A socket at this path, in QEMU's own root.
    Path(String),
    /// A descriptor that was handed over, so that only who started QEMU can talk to it.
    Inherited,
}

/// Reads the arguments of a QEMU, program name included.
pub fn parse_command_line(args: &[String]) -> CommandLine {
    let mut line = CommandLine::default();
    let mut chardevs: Vec<(String, Monitor)> = Vec::new();
    let mut monitor_chardev = None;
    let mut rest = args.iter().skip(1).map(String::as_str).peekable();
    while let Some(option) = rest.next() {
        // QEMU takes `--option` as well.
        let Some(option) = option.strip_prefix("--").or_else(|| option.strip_prefix('-')) else { continue };
        match option {
            "S" => line.is_started_paused = true,
            "enable-kvm" => line.accelerators.push("kvm".to_owned()),
            "name" | "uuid" | "incoming" | "machine" | "M" | "accel" | "m" | "blockdev" | "drive" | "hda" | "hdb"
            | "cdrom" | "chardev" | "mon" | "qmp" => {
                let Some(value) = rest.next() else { break };
                match option {
                    "name" => line.name = value_or_first(value, "guest"),
                    "uuid" => line.uuid = Some(value.to_owned()),
                    "incoming" => line.incoming = Some(value.to_owned()),
                    "machine" | "M" => {
                        line.machine = value_or_first(value, "type");
                        line.accelerators.extend(
                            key_values(value).into_iter().filter(|(key, _)| key == "accel").flat_map(split_accel),
                        );
                    }
                    "accel" => line.accelerators.extend(value_or_first(value, "accel")),
                    "m" => line.memory_bytes = value_or_first(value, "size").as_deref().and_then(parse_size_mib),
                    "blockdev" => line.disks.extend(disk_from_blockdev(value)),
                    "drive" => line.disks.extend(disk_from_drive(&key_values(value))),
                    "hda" | "hdb" | "cdrom" => {
                        line.disks.extend(disk_from_drive(&[("file".to_owned(), value.to_owned())]));
                    }
                    "chardev" => chardevs.extend(chardev(value)),
                    "mon" => monitor_chardev = monitor_chardev.or(value_or_first(value, "chardev")),
                    _ => line.monitor = line.monitor.or(qmp(value)),
                }
            }
            _ => {}
        }
    }
    let of_chardev = monitor_chardev.and_then(|id| chardevs.into_iter().find(|(name, _)| *name == id));
    line.monitor = of_chardev.map(|(_, monitor)| monitor).or(line.monitor);
    line
}

/// Splits `a,b=c,d=e,,f` into pairs; what has no `=` has an empty value. A doubled comma is one comma.
pub(super) fn key_values(text: &str) -> Vec<(String, String)> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == ',' && characters.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(character);
        }
    }
    let pair = |part: String| match part.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (part, String::new()),
    };
    parts.into_iter().map(pair).collect()
}

/// The value of `key`, or the first word when that stands without a key, as QEMU allows for one key of each option.
fn value_or_first(text: &str, key: &str) -> Option<String> {
    let pairs = key_values(text);
    let named = pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    let is_bare = !text.split(',').next().unwrap_or_default().contains('=');
    named.or_else(|| pairs.into_iter().next().map(|(name, _)| name).filter(|name| is_bare && !name.is_empty()))
}

/// `accel=kvm:tcg` is a list in order of choice.
fn split_accel((_, value): (String, String)) -> Vec<String> {
    value.split(':').map(str::to_owned).collect()
}

/// A size whose unit is MiB unless it has a suffix: `131072k`, `4G`, `1024`.
fn parse_size_mib(text: &str) -> Option<u64> {
    let unit_at = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let shift = match unit {
        "b" | "B" => 0,
        "k" | "K" => 10,
        "" | "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// `socket,id=charmonitor,path=/run/x` or `…,fd=19,…`.
fn chardev(text: &str) -> Option<(String, Monitor)> {
    let pairs = key_values(text);
    let value = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    let monitor = match (value("path"), value("fd")) {
        (Some(path), _) => Monitor::Path(path),
        (None, Some(_)) => Monitor::Inherited,
        (None, None) => return None,
    };
    Some((value("id")?, monitor))
}

/// `unix:/run/x,server=on,wait=off`.
fn qmp(text: &str) -> Option<Monitor> {
    let (address, _) = key_values(text).into_iter().next()?;
    address.strip_prefix("unix:").map(|path| Monitor::Path(path.to_owned()))
}
