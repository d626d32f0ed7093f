//! Where a path leads when its symbolic links are followed, without a wait for a server.

use std::path::{Component, Path, PathBuf};

use super::Mount;
use crate::HostRoot;
use crate::space::is_local;

/// Links that one path may lead through, as for the kernel (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// `path`, which must be absolute, with its symbolic links followed below `root`, whose mounts are `mounts`.
///
/// Links are read on local file systems alone, and a mount point is never touched: it is no link, and a server may be behind it.
/// What lies behind a mount that is not local stays as it is written, and so do what cannot be read and a ring of links.
pub fn follow_links(root: &HostRoot, mounts: &[Mount], path: &Path) -> PathBuf {
    // The last mount at a point covers the others. Names of thousands of mounts are compared by their bytes, not part by part.
    let mount_at = |point: &Path| mounts.iter().rfind(|mount| mount.mount_point.as_os_str() == point.as_os_str());
    let mut real = PathBuf::from("/");
    let mut rest = path.to_path_buf();
    let mut n_links = 0;
    if !mount_at(&real).is_some_and(|mount| is_local(&mount.fs_type)) {
        return rest;
    }
    loop {
        let mut parts = rest.components();
        let Some(part) = parts.next() else { return real };
        let mut after = parts.as_path().to_path_buf();
        match part {
            Component::RootDir => real = PathBuf::from("/"),
            Component::ParentDir => drop(real.pop()),
            Component::CurDir | Component::Prefix(_) => {}
            Component::Normal(name) => {
                real.push(name);
                match mount_at(&real) {
                    Some(mount) if is_local(&mount.fs_type) => {}
                    Some(_) => return real.join(after),
                    None => {
                        if let Ok(target) = root.read_link(&real) {
                            n_links += 1;
                            if n_links > MAX_LINKS {
                                return path.to_path_buf();
                            }
                            real.pop();
                            after = target.join(after);
                        }
                    }
                }
            }
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::mount::parse_mountinfo;

    #[test]
    fn links_are_followed_inside_the_root_and_not_where_a_server_may_be() {
        let root = tempfile::tempdir().unwrap();
        let text = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /data rw - xfs /dev/sdb1 rw\n3 1 0:50 / /nfs rw - nfs4 nas:/vol rw\n4 1 0:51 / /covered rw - nfs4 nas:/vol rw\n5 3 8:3 / /nfs/local rw - xfs /dev/sdc1 rw\n";
        let (mounts, _) = parse_mountinfo(text);
        for folder in ["var/lib/libvirt", "data/vms", "nfs/local"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for (target, link) in [
            ("/data/vms", "var/lib/libvirt/images"),
            ("../lib/libvirt/images/deep", "var/lib/relative"),
            ("../../../../../data", "var/lib/above"),
            ("/nfs/vms", "var/lib/remote"),
            ("/data", "nfs/vms"),
            ("/data", "nfs/local/vms"),
            ("/data", "covered"),
            ("ring", "ring"),
        ] {
            symlink(target, root.path().join(link)).unwrap();
        }
        let root = HostRoot::new(root.path());
        for (path, want) in [
            ("/var/lib/libvirt/images/a.img", "/data/vms/a.img"),
            ("/var/lib/relative/a.img", "/data/vms/deep/a.img"),
            ("/var/lib/above", "/data"),
            ("/var/lib/remote/a.img", "/nfs/vms/a.img"),
            ("/nfs/local/vms/a.img", "/nfs/local/vms/a.img"),
            ("/covered/a.img", "/covered/a.img"),
            ("/none/./a.img", "/none/a.img"),
            ("/ring/a.img", "/ring/a.img"),
            ("/", "/"),
        ] {
            assert_eq!(follow_links(&root, &mounts, Path::new(path)), Path::new(want), "{path}");
        }
        let (linked, remote) = (Path::new("/var/lib/libvirt/images"), text.replacen("ext4", "nfs4", 1));
        for text in ["", &remote] {
            assert_eq!(follow_links(&root, &parse_mountinfo(text).0, linked), linked, "{text}");
        }
    }
}
