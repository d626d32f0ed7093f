//! The tap devices that a QEMU holds, and the links of its network namespace.
//!
//! QEMU gets its taps as open descriptors of `/dev/net/tun`; the kernel names the link in their `fdinfo`, and names none once it was
//! deleted. Sources: `drivers/net/tun.c` (`tun_chr_show_fdinfo`), `proc_pid_net(5)`, kernel `Documentation/ABI/testing/sysfs-class-net`.

use std::collections::BTreeMap;

use crate::process::{Procfs, numbers_in, optional_text};
use crate::{HostRoot, Malformed, ReadError};

/// What a descriptor of a tap leads to.
const TUN: &str = "/dev/net/tun";
/// Most links that are kept: a pod has a handful, a node one for each pod.
const MAX_LINKS: usize = 4096;

/// The network of a QEMU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taps {
    /// Links of its open taps, each once; `None` for a tap that was deleted.
    pub held: Vec<Option<String>>,
    /// Names of the links of its network namespace.
    pub links: Vec<String>,
    /// Whether there is a carrier, of links that are set up and can be asked.
    pub carriers: BTreeMap<String, bool>,
}

/// The link in an `fdinfo` of `/dev/net/tun`: `Some(None)` when the descriptor has none, `None` when the text is of something else.
pub fn parse_tun_fdinfo(text: &str) -> Option<Option<String>> {
    let name = text.lines().find_map(|line| line.strip_prefix("iff:"))?.trim();
    Some((!name.is_empty()).then(|| name.chars().take(15).collect()))
}

/// The names in `/proc/PID/net/dev`.
///
/// # Errors
/// When its heading is not there.
pub fn parse_net_dev(text: &str) -> Result<Vec<String>, Malformed> {
    let first = text.lines().next().unwrap_or_default();
    if !first.starts_with("Inter-|") {
        return Err(Malformed::new(1, first));
    }
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned());
    Ok(names.take(MAX_LINKS).collect())
}

impl Procfs {
    /// The descriptors of `/dev/net/tun` that a process has.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when it has ended.
    pub fn tap_descriptors(&self, pid: u32) -> Result<Vec<u32>, ReadError> {
        let is_tap = |fd: &u32| {
            std::fs::read_link(self.file_of(pid, &format!("fd/{fd}"))).is_ok_and(|target| target.as_os_str() == TUN)
        };
        Ok(numbers_in(&self.file_of(pid, "fd"))?.into_iter().filter(is_tap).collect())
    }

    /// See [`Taps::held`], of these descriptors. `None` when one of them is none of a tap any more.
    pub fn held_taps(&self, pid: u32, descriptors: &[u32]) -> Option<Vec<Option<String>>> {
        let mut held = Vec::new();
        let mut is_all = true;
        for fd in descriptors {
            let info = optional_text(&self.file_of(pid, &format!("fdinfo/{fd}")));
            match info.as_deref().and_then(parse_tun_fdinfo) {
                Some(link) if !held.contains(&link) => held.push(link),
                Some(_) => {}
                None => is_all = false,
            }
        }
        is_all.then_some(held)
    }

    /// See [`Taps::links`].
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when it has ended.
    pub fn links(&self, pid: u32) -> Result<Vec<String>, ReadError> {
        let path = self.file_of(pid, "net/dev");
        let text = std::fs::read_to_string(&path).map_err(|error| ReadError::from_io(&path, error))?;
        parse_net_dev(&text).map_err(|malformed| malformed.at(path))
    }

    /// See [`Taps::carriers`], from the sysfs that its own root shows.
    pub fn carriers(&self, pid: u32, links: &[String]) -> BTreeMap<String, bool> {
        let root = HostRoot::new(self.file_of(pid, "root"));
        let carrier = |link: &String| {
            let text = root.read_text(format!("sys/class/net/{link}/carrier")).ok()?;
            Some((link.clone(), text.trim() == "1"))
        };
        links.iter().filter(|link| *link != "lo").filter_map(carrier).collect()
    }

    /// The network namespace of a process, as its link names it. `None` when it has ended, or we may not see it.
    pub fn network_namespace(&self, pid: u32) -> Option<String> {
        std::fs::read_link(self.file_of(pid, "ns/net")).ok()?.into_os_string().into_string().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    const NET_DEV: &str = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\nk6t-eth0:    10       1    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n  tap0:    1066      13    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n";

    #[test]
    fn a_taps_link_is_named_and_a_deleted_one_is_not() {
        assert_eq!(
            parse_tun_fdinfo("pos:\t0\nflags:\t0104002\nmnt_id:\t22\niff:\ttap0\n"),
            Some(Some("tap0".to_owned()))
        );
        assert_eq!(parse_tun_fdinfo("pos:\t0\niff:\t\n"), Some(None));
        assert_eq!(parse_tun_fdinfo("pos:\t0\nflags:\t02\n"), None);
    }

    #[test]
    fn taps_links_and_carriers_of_a_process_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let procfs = Procfs::new(dir.path());
        let of = |path: &str| dir.path().join("7").join(path);
        for folder in ["fd", "fdinfo", "net", "root/sys/class/net/tap0"] {
            std::fs::create_dir_all(of(folder)).unwrap();
        }
        for (fd, target, info) in
            [(3, "/dev/kvm", "pos:\t0\n"), (4, TUN, "iff:\ttap0\n"), (5, TUN, "iff:\ttap0\n"), (6, TUN, "iff:\t\n")]
        {
            symlink(target, of(&format!("fd/{fd}"))).unwrap();
            std::fs::write(of(&format!("fdinfo/{fd}")), info).unwrap();
        }
        std::fs::write(of("net/dev"), NET_DEV).unwrap();
        std::fs::write(of("root/sys/class/net/tap0/carrier"), "0\n").unwrap();
        let taps = procfs.tap_descriptors(7).unwrap();
        assert_eq!(taps, [4, 5, 6]);
        assert_eq!(procfs.held_taps(7, &taps).unwrap(), [Some("tap0".to_owned()), None]);
        assert_eq!(procfs.held_taps(7, &[3, 4]), None);
        let links = procfs.links(7).unwrap();
        assert_eq!(links, ["lo", "k6t-eth0", "tap0"]);
        assert_eq!(procfs.carriers(7, &links), BTreeMap::from([("tap0".to_owned(), false)]));
        assert!(procfs.tap_descriptors(8).unwrap_err().is_not_found());
        std::fs::write(of("net/dev"), "rubbish").unwrap();
        assert!(procfs.links(7).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "(Inter-\\||iff:)?\\PC{0,40}(\n\\PC{0,20}:?){0,4}") {
            let _ = parse_tun_fdinfo(&text);
            let _ = parse_net_dev(&text);
        }
    }
}
