//! The `journal` probe: what the kubelet, the container runtime, storage daemons and libvirt write to the systemd journal.
//!
//! Read from the files themselves, at the shared beat: one small read of the active file's header tells that nothing is new.
//! **Where it begins.** After the kept position, else 15 min ago. **What it says.** `ErrorSaid` of the node through the
//! signatures, equal lines folded; what could not be read is `JournalLost`. Without journal files (Storage=none, hosts without
//! systemd) it is blind and says so. Files are read on a thread of their own: the disk below may hang.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kulprit_host::journal::{JournalEntry, JournalPoll, JournalReader, JournalStart, parse_journal_position};
use kulprit_host::log::{Clock, parse_line};
use kulprit_judge::said::{Hearing, LogSource, Speaker, speaker_of_unit};
use kulprit_judge::{OccurrenceVerdict, Verdict};
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject};

use super::blocking::Late;
use super::counters::count;
use super::said::{Rhythm, clock_of, moment_at};
use super::{ProbeContext, ProbeSpec, chain};

const NAME: &str = "journal";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "What the kubelet, the container runtime, storage daemons and libvirt write to the journal.",
    sources: "systemd journal files of /run/log/journal and /var/log/journal",
    needs: "/var/log/journal or /run/log/journal readable (root or group systemd-journal)",
    lost_without: "what units write; nothing on hosts without a journal",
    look_every: Duration::from_secs(30),
    spawn: |context| Box::pin(run(context)),
};
/// A look at the files takes well below 1 ms.
const DEADLINE: Duration = Duration::from_secs(5);
/// Entries read at one beat; journald itself takes no more than 10,000 in 30 s of one service.
const MAX_ENTRIES: usize = 5_000;
/// Lines of one entry that are looked at: a panic's first ones.
const MAX_LINES: usize = 16;

async fn run(context: ProbeContext) {
    let listening = Arc::new(Mutex::new(Listening::new(&context)));
    let mut blocking = context.blocking();
    let mut rhythm = Rhythm::new(SPEC.look_every);
    loop {
        let draft = context.begin(NAME);
        let (shared, now, once) = (Arc::clone(&listening), draft.began, context.once);
        let heard = blocking
            .run(DEADLINE, move || shared.lock().unwrap_or_else(PoisonError::into_inner).listen(now, once))
            .await
            .unwrap_or_else(|Late { for_secs }| Heard {
                blind_because: Some(format!("the journal's files have not answered for {for_secs} s")),
                ..Heard::default()
            });
        count(&context.counters.errors, u64::from(heard.blind_because.is_some()));
        let has_news = !heard.verdicts.is_empty();
        if rhythm.is_due(has_news, heard.blind_because.as_deref()) || context.once {
            let position = heard.position.filter(|_| rhythm.keeps(has_news));
            let draft = draft.verdicts(heard.verdicts.into_iter().map(Verdict::Occurrence)).position(position);
            let look = draft.blind_if(heard.blind_because).end(&context.clock);
            if !context.send(look).await {
                return;
            }
        }
        if !context.rest(context.config.log_every.get()).await {
            return;
        }
    }
}

/// The journal and what was heard of it.
struct Listening {
    reader: JournalReader,
    sources: Vec<LogSource>,
    hearing: Hearing,
}

/// What one look gave.
#[derive(Default)]
struct Heard {
    verdicts: Vec<OccurrenceVerdict>,
    position: Option<String>,
    blind_because: Option<String>,
}

impl Listening {
    fn new(context: &ProbeContext) -> Self {
        let look_back_usec = i64::try_from(context.config.log_look_back.get().as_micros()).unwrap_or(i64::MAX);
        let since_usec = context.clock.now().wall_usec.saturating_sub(look_back_usec);
        // What happened before that while no agent ran is history.
        let kept = context.start_at.as_deref().and_then(parse_journal_position);
        let start = match kept {
            Some(position) if position.realtime_usec >= since_usec => JournalStart::After(position),
            _ => JournalStart::Since(since_usec),
        };
        let mut units = context.config.kubelet_units.clone();
        units.extend(context.config.journal_units.iter().cloned());
        units.sort_unstable();
        units.dedup();
        Self {
            sources: units.iter().cloned().map(LogSource::Unit).collect(),
            reader: JournalReader::new(context.host.clone(), units, start),
            hearing: Hearing::new(),
        }
    }

    fn listen(&mut self, now: Moment, to_the_end: bool) -> Heard {
        let mut poll = JournalPoll::default();
        let mut failed = None;
        loop {
            let (sources, hearing) = (&self.sources, &mut self.hearing);
            match self.reader.poll(MAX_ENTRIES, |entry| take(entry, sources, hearing, now)) {
                Ok(more) => {
                    poll = JournalPoll {
                        is_drained: more.is_drained,
                        n_entries: poll.n_entries + more.n_entries,
                        n_unreadable: poll.n_unreadable + more.n_unreadable,
                        n_malformed: poll.n_malformed + more.n_malformed,
                        n_removed: poll.n_removed + more.n_removed,
                    };
                }
                Err(error) => failed = Some(chain(&error)),
            }
            if !to_the_end || poll.is_drained || failed.is_some() {
                break;
            }
        }
        let told = self.hearing.take();
        let mut verdicts = told.verdicts;
        verdicts.extend(lost(now, &poll, told.n_unheard));
        Heard { verdicts, position: self.reader.position().map(|position| position.to_string()), blind_because: failed }
    }
}

fn take(entry: &JournalEntry<'_>, sources: &[LogSource], hearing: &mut Hearing, now: Moment) {
    let Some(source @ LogSource::Unit(unit)) = sources.get(entry.name_idx) else { return };
    let at = moment_at(now, entry.realtime_usec);
    // Whether systemd or the unit speaks is another speaker.
    let log = (entry.name_idx as u64) << 1 | u64::from(entry.is_about);
    let Clock { at_usec, btime_usec } = clock_of(now);
    let mut from = 0;
    for _ in 0..MAX_LINES {
        let Some(found) = hearing.find(log, entry.message.get(from..).unwrap_or_default(), &|_| at) else { return };
        let (start, end) = line_around(entry.message, from + found);
        let text = String::from_utf8_lossy(&entry.message[start..end]);
        let mut line = parse_line(&text, Clock { at_usec, btime_usec });
        line.ident = entry.identifier.map(str::to_owned).filter(|_| {
            // A unit that is known says more than what its process calls itself.
            entry.is_about || speaker_of_unit("", unit) == Speaker::Host
        });
        line.priority = line.priority.or(entry.priority);
        line.raw = Cow::Borrowed(&text);
        hearing.hear(log, source, &line, at, true, |attributes| attributes);
        from = end;
    }
}

fn line_around(bytes: &[u8], at: usize) -> (usize, usize) {
    let start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let end = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| at + end);
    (start, end)
}

/// What was not read.
fn lost(now: Moment, poll: &JournalPoll, n_unheard: u64) -> Option<OccurrenceVerdict> {
    let what = [
        (poll.n_removed, "files were removed before they were read"),
        (poll.n_malformed, "objects or files are broken"),
        (poll.n_unreadable, "messages are compressed with xz or lz4"),
        (n_unheard, "lines were too many at once"),
    ];
    let said: Vec<String> = what.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    (!said.is_empty()).then(|| OccurrenceVerdict {
        code: FindingCode::JournalLost,
        subject: Subject::Node,
        at: now,
        count: what.iter().map(|(n, _)| *n).sum(),
        attributes: Attributes::new(),
        evidence: vec![Evidence::new("journal", now, said.join(", "))],
    })
}

#[cfg(test)]
mod tests;
