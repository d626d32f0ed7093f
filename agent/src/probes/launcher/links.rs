//! The taps of all QEMUs, at one look.
//!
//! Which descriptors are taps is known until a QEMU has another number of descriptors, and QEMUs of one network namespace see the same
//! links: so each look is a file for each tap, and one for each namespace.

use std::collections::BTreeMap;

use kulprit_host::ReadError;
use kulprit_host::launcher::Taps;
use kulprit_host::process::{ProcessId, Procfs};

use crate::probes::descriptors::ByDescriptors;

/// Looks at which a QEMU's descriptors are taken for the same as long as they are as many: five minutes.
const MAX_LOOKS: u32 = 15;

/// As [`Taps::held`].
type Held = Vec<Option<String>>;

/// Remembers which descriptors are taps.
#[derive(Debug)]
pub(super) struct TapReader {
    procfs: Procfs,
    descriptors: ByDescriptors<Vec<u32>>,
}

impl TapReader {
    pub(super) fn new(procfs: &Procfs) -> Self {
        Self { procfs: procfs.clone(), descriptors: ByDescriptors::new(MAX_LOOKS) }
    }

    /// The taps of these QEMUs; carriers of those that are in a pod, as the links of others are the node's.
    pub(super) fn read(&mut self, qemus: &[(ProcessId, bool)]) -> Vec<Result<Taps, ReadError>> {
        self.descriptors.retain(|id| qemus.iter().any(|(known, _)| known == id));
        // All taps before all links: a tap that is made meanwhile is then among the links at least.
        let held: Vec<_> = qemus.iter().map(|(id, _)| self.held(*id)).collect();
        let mut by_namespace = BTreeMap::new();
        let complete = |(held, (id, is_in_pod)): (Result<Held, ReadError>, &(ProcessId, bool))| {
            let links = self.links(id.pid, &mut by_namespace);
            let (held, links) = (held?, links?);
            let carriers = if *is_in_pod { self.procfs.carriers(id.pid, &links) } else { BTreeMap::new() };
            Ok(Taps { held, links, carriers })
        };
        held.into_iter().zip(qemus).map(complete).collect()
    }

    /// The links that a QEMU sees; read once for each network namespace.
    fn links(&self, pid: u32, by_namespace: &mut BTreeMap<String, Vec<String>>) -> Result<Vec<String>, ReadError> {
        let namespace = self.procfs.network_namespace(pid);
        if let Some(links) = namespace.as_ref().and_then(|namespace| by_namespace.get(namespace)) {
            return Ok(links.clone());
        }
        let links = self.procfs.links(pid)?;
        by_namespace.extend(namespace.map(|namespace| (namespace, links.clone())));
        Ok(links)
    }

    fn held(&mut self, id: ProcessId) -> Result<Held, ReadError> {
        let procfs = &self.procfs;
        let look = |known: &mut ByDescriptors<Vec<u32>>| {
            let descriptors = known.get(procfs, id, || procfs.tap_descriptors(id.pid))?;
            Ok(procfs.held_taps(id.pid, &descriptors))
        };
        if let Some(held) = look(&mut self.descriptors)? {
            return Ok(held);
        }
        // One was closed, and another opened in its place.
        self.descriptors.forget(id);
        Ok(look(&mut self.descriptors)?.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::probes::testing::write;

    #[test]
    fn taps_are_found_again_when_one_is_closed_and_links_are_those_of_the_namespace() {
        let root = tempfile::tempdir().unwrap();
        let heading = "Inter-|   Receive\n face |bytes\n";
        for pid in [7, 8] {
            write(root.path(), &format!("{pid}/net/dev"), &format!("{heading} tap{pid}: 0\n"));
            for folder in ["fd", "ns"] {
                std::fs::create_dir_all(root.path().join(format!("{pid}/{folder}"))).unwrap();
            }
            symlink("net:[4026531840]", root.path().join(format!("{pid}/ns/net"))).unwrap();
            symlink("/dev/net/tun", root.path().join(format!("{pid}/fd/4"))).unwrap();
            write(root.path(), &format!("{pid}/fdinfo/4"), &format!("iff:\ttap{pid}\n"));
        }
        let mut reader = TapReader::new(&Procfs::new(root.path()));
        let id = |pid| ProcessId { pid, start_time_ticks: 1 };
        let mut look = || reader.read(&[(id(7), false), (id(8), false), (id(9), false)]);
        let seen = look();
        let held = |look: &[Result<Taps, ReadError>], at: usize| look[at].as_ref().unwrap().held.clone();
        assert_eq!((held(&seen, 0), held(&seen, 1)), (vec![Some("tap7".to_owned())], vec![Some("tap8".to_owned())]));
        assert_eq!(seen[1].as_ref().unwrap().links, ["tap7"], "read once for the namespace");
        assert!(seen[2].as_ref().unwrap_err().is_not_found());
        // Descriptor 4 is something else now, and 5 would be new; the count is the same.
        std::fs::remove_file(root.path().join("7/fd/4")).unwrap();
        write(root.path(), "7/fdinfo/4", "pos:\t0\n");
        symlink("/dev/net/tun", root.path().join("7/fd/5")).unwrap();
        write(root.path(), "7/fdinfo/5", "iff:\t\n");
        assert_eq!(held(&look(), 0), [None]);
    }
}
