//! Versions of the node's own libvirt and QEMU, from files: asking a program could hang, and libvirt may not run yet.
//!
//! Where VMs run in pods the node has neither, and each pod its own. Sources: the name of libvirt's library; what libvirt keeps
//! of each QEMU it has probed (`virQEMUCapsFormatCache` in `src/qemu/qemu_capabilities.c`, root's to read).

use crate::HostRoot;

/// Where distributions have shared libraries.
const LIBRARIES: [&str; 4] = ["usr/lib64", "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib"];
/// One file for each QEMU program.
const CAPABILITIES: &str = "var/cache/libvirt/qemu/capabilities";
/// Such files that are read: 0.3 MB each at most. A distribution has some 30 programs, of which libvirt probes those of its own
/// processor.
const MAX_PROGRAMS: usize = 8;

/// libvirt's version, from the name that its library's link leads to: `libvirt.so.0.11003.0` is 11.3.0.
///
/// `None` where the node has none: in KubeVirt it is in the launchers.
pub fn read_libvirt_version(root: &HostRoot) -> Option<String> {
    LIBRARIES.iter().find_map(|directory| {
        let target = root.read_link(format!("{directory}/libvirt.so.0")).ok()?;
        let name = target.file_name()?.to_str()?.strip_prefix("libvirt.so.0.")?.to_owned();
        let (number, patch) = name.split_once('.')?;
        let (number, patch) = (number.parse::<u32>().ok()?, patch.parse::<u32>().ok()?);
        Some(format!("{}.{}.{patch}", number / 1_000, number % 1_000))
    })
}

/// QEMU's version as libvirt has last probed it; of several programs the highest.
///
/// `None` where libvirt has probed none, or we may not read what it keeps.
pub fn read_qemu_version(root: &HostRoot) -> Option<String> {
    let names = root.list(CAPABILITIES).ok()?;
    let files = names.iter().filter_map(|name| name.to_str()).filter(|name| name.ends_with(".xml"));
    let texts = files.take(MAX_PROGRAMS).filter_map(|name| root.read_text(format!("{CAPABILITIES}/{name}")).ok());
    let number = texts.filter_map(|text| parse_qemu_capabilities(&text)).max()?;
    Some(format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000))
}

/// Finds QEMU's version in what libvirt keeps of it: major * 1,000,000 + minor * 1,000 + micro. `None` when it says none.
pub fn parse_qemu_capabilities(text: &str) -> Option<u64> {
    let value = |line: &str| line.trim().strip_prefix("<version>")?.strip_suffix("</version>")?.parse().ok();
    text.lines().find_map(value).filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_librarys_name_is_its_version() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/lib64")).unwrap();
        let root = HostRoot::new(dir.path());
        assert_eq!(read_libvirt_version(&root), None);
        let link = dir.path().join("usr/lib64/libvirt.so.0");
        for (target, want) in
            [("libvirt.so.0.11003.0", Some("11.3.0")), ("libvirt.so.0.9000.2", Some("9.0.2")), ("garbage", None)]
        {
            let _ = std::fs::remove_file(&link);
            symlink(target, &link).unwrap();
            assert_eq!(read_libvirt_version(&root).as_deref(), want, "{target}");
        }
    }

    #[test]
    fn qemus_version_is_the_highest_that_libvirt_keeps() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        assert_eq!(read_qemu_version(&root), None, "no libvirt");
        let folder = dir.path().join(CAPABILITIES);
        std::fs::create_dir_all(&folder).unwrap();
        assert_eq!(read_qemu_version(&root), None, "nothing probed");
        // As libvirt 11.3 writes it.
        let text = |version: &str| {
            format!(
                "<qemuCaps>\n  <emulator>/usr/bin/qemu-system-x86_64</emulator>\n  <selfvers>11003000</selfvers>\n  <flag name='kvm'/>\n  \
                 <version>{version}</version>\n  <microcodeVersion>1</microcodeVersion>\n</qemuCaps>\n"
            )
        };
        std::fs::write(folder.join("c.xml"), "<qemuCaps>\u{0}<version>x</version>").unwrap();
        assert_eq!(read_qemu_version(&root), None, "garbage");
        std::fs::write(folder.join("a.xml"), text("10000002")).unwrap();
        std::fs::write(folder.join("b.xml"), text("9002004")).unwrap();
        std::fs::write(folder.join("d.tmp"), text("99000000")).unwrap();
        assert_eq!(read_qemu_version(&root).as_deref(), Some("10.0.2"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(<version>)?[0-9]{0,24}\\PC{0,20}(</version>)?") {
            let _ = parse_qemu_capabilities(&text);
        }
    }
}
