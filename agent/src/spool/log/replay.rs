//! What earlier starts left on disk, read once when the log is opened.
//!
//! Every frame teaches the log what it holds; a segment is cut where its frames end, which is where a crash tore the last write.
//! A file that is no segment of ours is refused, never touched.

use std::{fs, io, path::Path};

use kulprit_daemon::UsageError;
use kulprit_proto::v1;
use tracing::warn;

use super::{Log, Progress, SPLIT_BYTES};
use crate::spool::{
    frame::{Frame, Position},
    segment::{self, At, OpenError, Segment},
};

impl Log {
    pub(super) fn read_all(&mut self, dir: &Path, notes: &mut Vec<String>) -> Result<(), UsageError> {
        let failed = |path: &Path, error: io::Error| {
            UsageError::new(format!("failed to read the spool `{}`", path.display()))
                .because(error)
                .fix("make it readable for the agent, or choose another with --state-dir")
        };
        let mut ids = Vec::new();
        for entry in fs::read_dir(dir).map_err(|error| failed(dir, error))? {
            let entry = entry.map_err(|error| failed(dir, error))?;
            ids.extend(entry.file_name().to_str().and_then(segment::id_of));
        }
        ids.sort_unstable();
        for id in ids {
            let path = segment::path(dir, id);
            let mut segment = match Segment::open(dir, id) {
                Ok(Some(segment)) => segment,
                Ok(None) => continue,
                Err(OpenError::Foreign) => {
                    return Err(UsageError::new(format!("`{}` is not a spool segment of this agent", path.display()))
                        .fix("move it away, or choose another folder with --state-dir"));
                }
                Err(OpenError::Io(error)) => return Err(failed(&path, error)),
            };
            self.scan(&mut segment, notes).map_err(|error| failed(&path, error))?;
            self.segments.push_back(segment);
        }
        Ok(())
    }

    /// Takes in all frames of a segment; cuts it where they end.
    fn scan(&mut self, segment: &mut Segment, notes: &mut Vec<String>) -> io::Result<()> {
        let mut offset = Segment::start();
        loop {
            match segment.read(offset)? {
                At::Frame(frame, next) => {
                    self.learn(segment.id, frame, offset == Segment::start());
                    offset = next;
                }
                At::End => return Ok(()),
                At::Damage => {
                    let n_bytes = segment.len - offset;
                    warn!(segment = segment.id, offset, n_bytes, "the spool ends in a torn write, cutting it off");
                    if n_bytes > SPLIT_BYTES as u64 {
                        notes.push(format!("{n_bytes} bytes of the spool were damaged and are lost"));
                    }
                    return segment.truncate(offset);
                }
            }
        }
    }

    /// `is_head`: it is the first frame, which says all that outlives the segments before it.
    fn learn(&mut self, segment: u64, frame: Frame, is_head: bool) {
        let Frame { records, positions, losses, acks, memory } = frame;
        if is_head {
            self.losses.clear();
        }
        self.losses.extend(losses);
        for record in &memory {
            self.fold.add(record);
        }
        for record in &records {
            self.fold.add(record);
            let stream = (record.boot_id.clone(), record.epoch);
            self.ends.entry(segment).or_default().insert(stream.clone(), record.seq);
            let before = Progress { last_seq: 0, done_seq: record.seq.saturating_sub(1) };
            self.streams.entry(stream).or_insert(before).last_seq = record.seq;
        }
        for v1::Ack { boot_id, epoch, seq } in acks {
            let progress = self.streams.entry((boot_id, epoch)).or_default();
            progress.done_seq = progress.done_seq.max(seq);
            progress.last_seq = progress.last_seq.max(seq);
        }
        self.positions.extend(positions.into_iter().map(|Position { probe, text }| (probe, text)));
    }
}
