//! The `npd` probe: the operator's own node-problem-detector rule files and custom plugins, unchanged.
//!
//! A permanent rule of a log sets its condition until the node boots, as it does there until node-problem-detector starts again;
//! what is set, and how far the logs were read, is kept with the position, so that a restart changes nothing. A condition of plugins is what the
//! last run of each says. Without files it does nothing.

mod builtin;
mod plugin;
mod rules;
mod window;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kulprit_host::{
    HostRoot, ReadError,
    follow::{FollowLimits, FollowStart, FollowedFile},
    journal::{JournalReader, JournalStart},
    kmsg::{KmsgItem, KmsgPosition, KmsgReader, KmsgStart},
};
use kulprit_judge::{OccurrenceVerdict, StateVerdict, Verdict};
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::Instant};

use self::{
    plugin::{Outcome, Verdict as Said},
    rules::{CustomRule, CustomRules, Log, LogRules, RuleFile},
    window::Window,
};
use super::{ProbeConfig, ProbeContext, ProbeSpec, blocking::Blocking, chain, counters::count, kernel_log::open_log};

const NAME: &str = "npd";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "What the operator's own node-problem-detector rules and plugins say.",
    sources: "the files of `npd_files`: /dev/kmsg, the journal, log files, programs",
    needs: "what the operator's own files name",
    lost_without: "the rules of files that cannot be read are Unknown",
    look_every: Duration::from_secs(60),
    spawn: |context| Box::pin(run(context)),
};
/// How often logs are read and plugins looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Reading a log takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(5);
/// Entries of a log read at a time.
const ENTRIES: usize = 4_096;
const FILE_LIMITS: FollowLimits = FollowLimits { max_bytes: 1 << 20, max_behind_bytes: 4 << 20 };

/// Whether every rule file can be used.
///
/// # Errors
/// The first that cannot, and why.
pub(crate) fn check_files(config: &ProbeConfig) -> Result<(), String> {
    config.npd_files.iter().try_for_each(|path| rules::read(path).map(drop).map_err(|error| chain(&error)))
}

/// How far the logs were read, and what they set.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Position {
    boot_id: String,
    kmsg_seq: Option<u64>,
    /// Unix time up to which journals were read, microseconds.
    journal_usec: Option<i64>,
    /// Inode and offset by path.
    files: BTreeMap<String, (u64, u64)>,
    /// Reason and message of each condition that a log has set, by its type.
    set: BTreeMap<String, (String, String)>,
}

struct LogSource {
    rules: LogRules,
    window: Window,
    reader: Option<Reader>,
    /// Why it could not be read when last tried.
    blind_because: Option<String>,
}

enum Reader {
    Kmsg { reader: KmsgReader, since_usec: i64 },
    Journal(JournalReader),
    File { file: FollowedFile, message: Option<regex::bytes::Regex>, buffer: Vec<u8> },
}

/// A file of plugins, and the last word of each.
struct PluginSource {
    rules: Arc<CustomRules>,
    due: Vec<Instant>,
    last: Vec<Option<Outcome>>,
    n_running: usize,
}

struct Probe {
    context: ProbeContext,
    position: Position,
    logs: Vec<LogSource>,
    plugins: Vec<PluginSource>,
    running: JoinSet<(usize, usize, Outcome)>,
    reading: Blocking,
    /// Files that could not be used.
    problems: Vec<String>,
}

async fn run(context: ProbeContext) {
    let mut probe = Probe::new(context);
    loop {
        let look = probe.look().await;
        let every = if probe.has_rules() { EVERY } else { SPEC.look_every };
        if !probe.context.send_and_rest(look, every).await {
            return;
        }
    }
}

impl Probe {
    fn new(context: ProbeContext) -> Self {
        let boot_id = context.host.boot_id().unwrap_or_default();
        let kept: Option<Position> = context.start_at.as_deref().and_then(|text| serde_json::from_str(text).ok());
        // Another boot: what was wrong then is over, and the kernel's numbers begin anew.
        let mut position = kept.unwrap_or_default();
        if position.boot_id != boot_id {
            position =
                Position { boot_id, files: position.files, journal_usec: position.journal_usec, ..Position::default() };
        }
        let mut probe = Self {
            position,
            logs: Vec::new(),
            plugins: Vec::new(),
            running: JoinSet::new(),
            reading: context.blocking(),
            problems: Vec::new(),
            context,
        };
        for path in probe.context.config.npd_files.clone() {
            match rules::read(&path) {
                Ok(RuleFile::Log(rules)) => {
                    let window = Window::new(rules.buffer_size);
                    probe.logs.push(LogSource { rules, window, reader: None, blind_because: None });
                }
                Ok(RuleFile::Custom(rules)) => probe.plugins.push(PluginSource {
                    due: vec![Instant::now(); rules.rules.len()],
                    last: vec![None; rules.rules.len()],
                    n_running: 0,
                    rules: Arc::new(rules),
                }),
                Err(error) => probe.problems.push(chain(&error)),
            }
        }
        probe
    }

    async fn look(&mut self) -> crate::look::Look {
        let draft = self.context.begin(NAME);
        let mut verdicts = self.read_logs().await;
        self.start_due();
        let until = self.context.once.then(|| Instant::now() + Duration::from_secs(12));
        self.collect(until, &mut verdicts).await;
        verdicts.extend(self.conditions());
        let position = (!self.logs.is_empty()).then(|| serde_json::to_string(&self.position).ok()).flatten();
        let because = self.problems.first().filter(|_| !self.has_rules());
        draft.verdicts(verdicts).position(position).blind_if(because).end(&self.context.clock)
    }

    /// Whether any file could be used.
    fn has_rules(&self) -> bool {
        !self.logs.is_empty() || !self.plugins.is_empty()
    }

    /// Reads what is new in each log, and keeps why one could not be read.
    async fn read_logs(&mut self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        if self.logs.is_empty() {
            return verdicts;
        }
        let (host, now) = (self.context.host.clone(), self.context.clock.now());
        let (mut logs, mut position) = (std::mem::take(&mut self.logs), self.position.clone());
        let read = self.reading.run(DEADLINE, move || {
            let mut matched = Vec::new();
            let errors: Vec<Option<String>> = logs
                .iter_mut()
                .map(|log| log.read(&host, now, &mut position, &mut matched).err().map(|error| chain(&error)))
                .collect();
            (logs, position, matched, errors)
        });
        let Ok((logs, position, matched, errors)) = read.await else {
            // The sources are with the thread that is late; they are opened anew from the position.
            self.logs = Self::new(self.context.clone()).logs;
            for log in &mut self.logs {
                log.blind_because = Some("reading a log has not returned".to_owned());
            }
            return verdicts;
        };
        (self.logs, self.position) = (logs, position);
        for (log, error) in self.logs.iter_mut().zip(errors) {
            count(&self.context.counters.errors, u64::from(error.is_some()));
            log.blind_because = error;
        }
        verdicts.extend(matched.into_iter().map(|event| event.into_verdict(now)));
        verdicts
    }

    /// Starts each plugin whose time has come, as many of a file at a time as it says; none that still runs.
    fn start_due(&mut self) {
        let now = Instant::now();
        for (file, source) in self.plugins.iter_mut().enumerate() {
            for index in 0..source.due.len() {
                if source.due[index] > now || source.n_running >= source.rules.concurrency {
                    continue;
                }
                let rule = source.rules.rules[index].clone();
                // It is due again after its end.
                source.due[index] = now + rule.timeout + rule.invoke_interval;
                source.n_running += 1;
                let (context, max_bytes) = (self.context.clone(), source.rules.max_output_bytes);
                self.running.spawn(async move { (file, index, run_rule(&context, &rule, max_bytes).await) });
            }
        }
    }

    /// Takes in the plugins that have ended; with `until`, waits for all of them.
    async fn collect(&mut self, until: Option<Instant>, verdicts: &mut Vec<Verdict>) {
        loop {
            let ended = match until {
                Some(until) => tokio::time::timeout_at(until, self.running.join_next()).await.ok().flatten(),
                None => self.running.try_join_next(),
            };
            let Some(ended) = ended else { return };
            // A task that panicked has said so; its rule runs again when it is due.
            let Ok((file, index, outcome)) = ended else { continue };
            let source = &mut self.plugins[file];
            source.n_running -= 1;
            let rule = &source.rules.rules[index];
            source.due[index] = Instant::now() + rule.invoke_interval;
            if rule.condition.is_none() && outcome.verdict == Said::NonOk {
                let event = Event {
                    source: source.rules.source.clone(),
                    reason: rule.reason.clone(),
                    message: outcome.message.clone(),
                };
                verdicts.push(event.into_verdict(self.context.clock.now()));
            }
            source.last[index] = Some(outcome);
            if until.is_some() {
                self.start_due_once();
            }
        }
    }

    /// With a look for once, rules that waited for a free place follow.
    fn start_due_once(&mut self) {
        let is_new = |source: &PluginSource| source.last.iter().any(Option::is_none);
        if self.plugins.iter().any(is_new) {
            self.start_due();
        }
    }

    /// Every condition of every file as it is now. What a log has set stays, readable or not.
    fn conditions(&self) -> Vec<Verdict> {
        let at = self.context.clock.now();
        let of_logs = self.logs.iter().flat_map(|log| {
            log.rules.conditions.iter().map(|condition| {
                match (self.position.set.get(&condition.kind), &log.blind_because) {
                    (Some((reason, message)), _) => present(&condition.kind, reason, &log.rules.source, message, at),
                    (None, Some(because)) => unknown(&condition.kind, because),
                    (None, None) => absent(
                        &condition.kind,
                        &log.rules.source,
                        &format!("{}: {}", condition.reason, condition.message),
                        at,
                    ),
                }
            })
        });
        let of_plugins = self
            .plugins
            .iter()
            .flat_map(|source| source.rules.conditions.iter().map(|condition| source.condition(condition, at)));
        of_logs.chain(of_plugins).collect()
    }
}

async fn run_rule(context: &ProbeContext, rule: &CustomRule, max_output_bytes: usize) -> Outcome {
    match builtin::of_rule(rule) {
        Some(helper) => builtin::run(&helper, context, rule.timeout).await,
        None => plugin::run(rule, max_output_bytes).await,
    }
}

impl PluginSource {
    /// NonOK of any of its rules sets a condition; one that could not say, or has not run yet, leaves it Unknown.
    fn condition(&self, condition: &rules::Condition, at: Moment) -> Verdict {
        let rules = self.rules.rules.iter().zip(&self.last);
        let own: Vec<_> = rules.filter(|(rule, _)| rule.condition.as_deref() == Some(&*condition.kind)).collect();
        let is = |last: &Option<Outcome>, verdict| last.as_ref().is_some_and(|outcome| outcome.verdict == verdict);
        if let Some((rule, Some(outcome))) = own.iter().find(|(_, last)| is(last, Said::NonOk)) {
            return present(&condition.kind, &rule.reason, &self.rules.source, &outcome.message, at);
        }
        match own.iter().find(|(_, last)| !is(last, Said::Ok)) {
            Some((rule, Some(outcome))) => unknown(&condition.kind, &format!("{}: {}", rule.reason, outcome.message)),
            Some((rule, None)) => unknown(&condition.kind, &format!("{} has not run yet", rule.path)),
            None => {
                absent(&condition.kind, &self.rules.source, &format!("{}: {}", condition.reason, condition.message), at)
            }
        }
    }
}

/// A rule matched, or a plugin said NonOK.
struct Event {
    source: String,
    reason: String,
    message: String,
}

impl Event {
    fn into_verdict(self, at: Moment) -> Verdict {
        let Self { source, reason, message } = self;
        Verdict::Occurrence(OccurrenceVerdict {
            code: FindingCode::ProblemEvent,
            subject: Subject::Problem { name: reason.clone() },
            at,
            count: 1,
            attributes: Attributes::new().with(attribute::REASON, reason),
            evidence: vec![Evidence::new(&source, at, message)],
        })
    }
}

fn subject(condition: &str) -> Subject {
    Subject::Problem { name: condition.to_owned() }
}

fn present(condition: &str, reason: &str, source: &str, message: &str, at: Moment) -> Verdict {
    Verdict::State(StateVerdict {
        attributes: Attributes::new().with(attribute::REASON, reason),
        evidence: vec![Evidence::new(source, at, message.to_owned())],
        ..StateVerdict::seen(FindingCode::ProblemCondition, subject(condition), true)
    })
}

fn absent(condition: &str, source: &str, text: &str, at: Moment) -> Verdict {
    Verdict::State(StateVerdict {
        evidence: vec![Evidence::new(source, at, text.to_owned())],
        ..StateVerdict::seen(FindingCode::ProblemCondition, subject(condition), false)
    })
}

fn unknown(condition: &str, because: &str) -> Verdict {
    Verdict::State(StateVerdict::unknown(FindingCode::ProblemCondition, subject(condition), because))
}

impl LogSource {
    /// Reads what is new and tries every rule on it.
    fn read(
        &mut self,
        host: &HostRoot,
        now: Moment,
        position: &mut Position,
        events: &mut Vec<Event>,
    ) -> Result<(), ReadError> {
        if self.reader.is_none() {
            self.reader = Some(open(&self.rules, host, now, position)?);
        }
        let (rules, window) = (&self.rules, &mut self.window);
        let set = &mut position.set;
        let mut take = |line: &[u8]| {
            window.push(line);
            for rule in &rules.rules {
                let Some(matched) = window.matched(&rule.pattern) else { continue };
                let message = match rule.message_suffix.as_str() {
                    "" => matched,
                    suffix => format!("{matched}; {suffix}"),
                };
                match &rule.condition {
                    Some(condition) => drop(set.insert(condition.clone(), (rule.reason.clone(), message))),
                    None => events.push(Event { source: rules.source.clone(), reason: rule.reason.clone(), message }),
                }
            }
        };
        match self.reader.as_mut().expect("it was opened above") {
            Reader::Kmsg { reader, since_usec } => {
                while let Some(item) = reader.try_next()? {
                    if let KmsgItem::Record(record) = item
                        && i64::try_from(record.usec).is_ok_and(|usec| usec >= *since_usec)
                    {
                        take(record.text.as_bytes());
                    }
                }
                position.kmsg_seq = reader.position().map(|read| read.seq).or(position.kmsg_seq);
            }
            Reader::Journal(reader) => {
                while !reader.poll(ENTRIES, |entry| take(entry.message.trim_ascii()))?.is_drained {}
                position.journal_usec = Some(reader.position().map_or(now.wall_usec, |read| read.realtime_usec + 1));
            }
            Reader::File { file, message, buffer } => {
                let mut each = |block: &[u8]| {
                    for line in block.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                        let found = message.as_ref().and_then(|message| message.captures(line));
                        let text = found.and_then(|found| found.get(1).or_else(|| found.get(0)));
                        take(text.map_or(line, |text| text.as_bytes()));
                    }
                };
                // Paths of these files are the host's.
                while file.read(host, FILE_LIMITS, buffer, &mut each)?.is_behind {}
                if let Some(offset) = file.offset() {
                    position.files.insert(file.path().display().to_string(), offset);
                }
            }
        }
        Ok(())
    }
}

fn open(rules: &LogRules, host: &HostRoot, now: Moment, position: &Position) -> Result<Reader, ReadError> {
    let lookback_usec = i64::try_from(rules.lookback.as_micros()).unwrap_or(i64::MAX);
    Ok(match &rules.log {
        Log::Kmsg => {
            let start = position.kmsg_seq.map_or(KmsgStart::Oldest, |seq| {
                KmsgStart::After(KmsgPosition { boot_id: position.boot_id.clone(), seq })
            });
            let reader = open_log(host, &start)?;
            let is_first = position.kmsg_seq.is_none();
            let since_usec = if is_first { now.boottime_usec.saturating_sub(lookback_usec) } else { i64::MIN };
            Reader::Kmsg { reader, since_usec }
        }
        Log::Journal { identifier } => {
            let since = position.journal_usec.unwrap_or_else(|| now.wall_usec.saturating_sub(lookback_usec));
            let identifiers = vec![identifier.clone()];
            Reader::Journal(JournalReader::of_identifiers(host.clone(), identifiers, JournalStart::Since(since)))
        }
        Log::File { path, message } => {
            let kept = position.files.get(&path.display().to_string());
            // Stamps of these files are in a form that only their own configuration knows: the first start begins at the end.
            let start = kept.map_or(FollowStart::End, |&(inode, offset)| FollowStart::At { inode, offset });
            let message = regex::bytes::RegexBuilder::new(message).unicode(false).build().ok();
            let file = FollowedFile::new(path.strip_prefix("/").unwrap_or(path), start);
            Reader::File { file, message: message.filter(|message| message.as_str() != ""), buffer: Vec::new() }
        }
    })
}

#[cfg(test)]
mod tests;
