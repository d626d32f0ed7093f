//! One log that is followed: its lines, their times, and whose they are.

use std::cell::RefCell;
use std::path::PathBuf;

use kulprit_host::follow::{FollowLimits, FollowStart, Followed, FollowedFile};
use kulprit_host::log::{LogReader, parse_stamp};
use kulprit_host::{HostRoot, ReadError};
use kulprit_judge::said::{Hearing, LogSource, Speaker, vm_of_source};
use kulprit_model::{Attributes, Moment, attribute};

use super::denials::Denials;
use crate::probes::Launchers;
use crate::probes::said::{clock_of, moment_at};

/// One file at one look: some thousand lines.
const LIMITS: FollowLimits = FollowLimits { max_bytes: 256 * 1024, max_behind_bytes: 4 * 1024 * 1024 };

/// What all logs share at one look.
pub(super) struct Ear<'a> {
    pub(super) host: &'a HostRoot,
    pub(super) now: Moment,
    pub(super) launchers: &'a Launchers,
    pub(super) hearing: &'a mut Hearing,
    pub(super) denials: &'a mut Denials,
    pub(super) buffer: &'a mut Vec<u8>,
}

/// One log.
pub(super) struct Log {
    source: LogSource,
    pod_uid: Option<String>,
    file: FollowedFile,
    reader: LogReader,
    /// Tells logs apart for [`Hearing`].
    id: u64,
    is_first: bool,
    /// Whether something is to be read.
    pub(super) is_changed: bool,
    /// Why it could not be read at the last look.
    pub(super) unread: Option<String>,
    /// Number of the look that read it last.
    pub(super) read_at: u64,
}

impl Log {
    pub(super) fn new(path: PathBuf, source: LogSource, pod_uid: Option<&str>, start: FollowStart, id: u64) -> Self {
        Self {
            source,
            pod_uid: pod_uid.map(str::to_owned),
            file: FollowedFile::new(path, start),
            reader: LogReader::new(clock_of(Moment { wall_usec: 0, boottime_usec: 0 })),
            id,
            is_first: true,
            is_changed: true,
            unread: None,
            read_at: 0,
        }
    }

    /// Inode and offset of what was read, for logs of QEMU, whose lines seldom have a time.
    pub(super) fn offset(&self) -> Option<(u64, u64)> {
        self.file.offset().filter(|_| self.is_qemus())
    }

    fn is_qemus(&self) -> bool {
        matches!(self.source, LogSource::Qemu { .. })
    }

    /// Hears what is new.
    pub(super) fn read(&mut self, ear: &mut Ear<'_>) -> Result<Followed, ReadError> {
        if self.source == LogSource::Kernel {
            return self.file.read(ear.host, LIMITS, ear.buffer, |lines| ear.denials.hear(lines, ear.now));
        }
        let is_qemus = self.is_qemus();
        let Self { source, pod_uid, file, reader, id, is_first, .. } = self;
        let (now, launchers) = (ear.now, ear.launchers);
        reader.set_clock(clock_of(now));
        let hearing = RefCell::new(&mut *ear.hearing);
        let time_of = |line: &[u8]| {
            let head = String::from_utf8_lossy(&line[..line.len().min(64)]);
            parse_stamp(&head, now.wall_usec).map_or(now, |usec| moment_at(now, usec))
        };
        let followed = file.read(ear.host, LIMITS, ear.buffer, |lines| {
            let find = |lines: &[u8]| hearing.borrow_mut().find(*id, lines, &time_of);
            reader.read_lines(lines, find, |line| {
                // libvirt dates the start of a QEMU; what QEMU writes below it came any time after, and live: now.
                let stamp_usec = line.stamp_usec.filter(|_| !(is_qemus && line.is_continuation));
                let at = stamp_usec.map_or(now, |usec| moment_at(now, usec));
                let is_dated = stamp_usec.is_some() || !*is_first;
                let place = |attributes| place(attributes, source, pod_uid.as_deref(), launchers);
                hearing.borrow_mut().hear(*id, source, line, at, is_dated, place);
            });
        })?;
        *is_first &= followed.is_behind;
        Ok(followed)
    }
}

/// Adds whose pod and VM it is, where the line does not tell.
fn place(attributes: Attributes, source: &LogSource, pod_uid: Option<&str>, launchers: &Launchers) -> Attributes {
    let is_its_own = match source {
        LogSource::Pod { speaker, .. } => matches!(speaker, Speaker::Launcher | Speaker::LauncherSidecar),
        LogSource::Qemu { .. } => true,
        LogSource::Kernel | LogSource::Unit(_) | LogSource::Libvirt { .. } | LogSource::Command(_) => false,
    };
    if !is_its_own {
        return attributes;
    }
    let launcher = pod_uid.and_then(|uid| launchers.by_pod(uid));
    let vmi = launcher.map(|launcher| format!("{}/{}", launcher.namespace, launcher.name));
    let vmi = vmi.or_else(|| vm_of_source(source));
    let has = |key| attributes.get(key).is_some();
    let (has_uid, has_vmi) = (has(attribute::POD_UID), has(attribute::VMI));
    attributes
        .with_some(attribute::POD_UID, pod_uid.filter(|_| !has_uid))
        .with_some(attribute::VMI, vmi.filter(|_| !has_vmi))
}

/// What of a log was not handed out, in words.
pub(super) fn left_out(followed: &Followed) -> Option<String> {
    let Followed { n_skipped_bytes, n_lost_files, .. } = *followed;
    match (n_skipped_bytes, n_lost_files) {
        (0, 0) => None,
        (bytes, 0) => Some(format!("{bytes} bytes were left out, more came than is read")),
        (0, _) => Some("it was removed or truncated before it was read to its end".to_owned()),
        (bytes, _) => Some(format!("{bytes} bytes were left out, and it was removed or truncated before its end")),
    }
}
