//! `kulprit incidents --watch`: a line for each change, until Ctrl-C.
//!
//! A connection that is lost is opened again, and central tells anew what is open; a person is shown only what differs from what
//! was shown before. A program is told that it begins anew. What is shown is decided by [`Shown`], which is pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use kulprit_proto::v1::{self, IncidentEvent, watch_incidents_response::Message};
use tokio::time::sleep;

use super::touched_by;
use crate::{
    Terminal,
    arguments::{Format, WhichIncidents},
    commands::Ask,
    error::AskError,
    output, shape,
    table::one_line,
    when::{local_date_time, now_wall_usec, rfc3339},
};

/// The longest wait before central is tried again, and the first.
const RETRY_AT_MOST: Duration = Duration::from_secs(30);
const RETRY_AT_FIRST: Duration = Duration::from_millis(500);
/// So many of those it touches are named in a line.
const NAMED: usize = 3;
/// An incident is called by so many of its last characters; `kulprit incidents` takes them.
const NAME_CHARS: usize = 8;

/// Watches until Ctrl-C, or until nobody reads any more.
pub(in crate::commands) async fn watch(
    ask: &Ask,
    terminal: &mut Terminal,
    include_closed: bool,
    which: WhichIncidents,
) -> Result<(), AskError> {
    let WhichIncidents { node, cause } = which;
    let request = v1::WatchIncidentsRequest {
        include_closed,
        namespace: ask.only_namespace().unwrap_or_default().to_owned(),
        node: node.unwrap_or_default(),
        cause: cause.unwrap_or_default(),
    };
    let mut shown = Shown { include_closed, ..Shown::default() };
    tokio::select! {
        biased;
        // Without a handler the signal ends the process as it always does.
        Ok(()) = tokio::signal::ctrl_c() => Ok(()),
        ended = follow(ask, terminal, &request, &mut shown) => ended,
    }
}

/// Why one connection ended.
enum Lost {
    /// Nobody reads what is printed.
    Reader,
    Central(AskError),
}

impl From<AskError> for Lost {
    fn from(error: AskError) -> Self {
        Self::Central(error)
    }
}

async fn follow(
    ask: &Ask,
    terminal: &mut Terminal,
    request: &v1::WatchIncidentsRequest,
    shown: &mut Shown,
) -> Result<(), AskError> {
    let mut n_failures = 0;
    loop {
        let Err(lost) = tell(ask, terminal, request, shown, &mut n_failures).await;
        let error = match lost {
            Lost::Reader => return Ok(()),
            Lost::Central(error) => error,
        };
        // What was refused is refused again, and whoever was never answered may have the wrong address.
        let is_final = matches!(error, AskError::Refused { .. } | AskError::BadAddress { .. } | AskError::Print(_));
        if is_final || !shown.has_been_complete {
            return Err(error);
        }
        if n_failures == 0 {
            let reason = match error {
                AskError::CentralUnreachable { reason, .. } => reason,
                other => other.to_string(),
            };
            terminal.note(&format!("the connection to central is lost, trying again: {}", one_line(&reason)));
        }
        sleep(pause(n_failures, RandomState::new().hash_one(n_failures))).await;
        n_failures += 1;
    }
}

/// Tells what one connection says, until it is lost.
async fn tell(
    ask: &Ask,
    terminal: &mut Terminal,
    request: &v1::WatchIncidentsRequest,
    shown: &mut Shown,
    n_failures: &mut u32,
) -> Result<Infallible, Lost> {
    let mut central = ask.central().await?;
    let mut answers = ask.take(central.watch_incidents(request.clone()).await)?;
    print(terminal, &shown.begin(ask.format)?)?;
    loop {
        let message = match answers.message().await {
            Ok(Some(answer)) => answer.message,
            Ok(None) => {
                let reason = "it has ended the watch".to_owned();
                return Err(AskError::CentralUnreachable { address: ask.whom().to_owned(), reason }.into());
            }
            Err(status) => return Err(AskError::from_status(ask.whom(), ask.timeout_secs, &status).into()),
        };
        match message {
            Some(Message::Change(change)) => print(terminal, &shown.change(terminal, ask.format, change)?)?,
            Some(Message::Complete(v1::WatchComplete {})) => {
                if *n_failures > 0 {
                    terminal.note("central answers again");
                } else if shown.is_empty() {
                    terminal.note("nothing is open; watching, Ctrl-C ends it");
                }
                *n_failures = 0;
                print(terminal, &shown.complete(terminal, ask.format)?)?;
            }
            // A newer central says something that we need not understand.
            None => {}
        }
    }
}

fn print(terminal: &mut Terminal, text: &str) -> Result<(), Lost> {
    if text.is_empty() { Ok(()) } else { terminal.print_on(text).map_err(|_| Lost::Reader) }
}

/// How long to wait after so many failures: doubled each time, and anything from half to all of it, so that many who lost
/// the same central do not come back at once.
fn pause(n_failures: u32, random: u64) -> Duration {
    let ceiling = RETRY_AT_FIRST.saturating_mul(2_u32.saturating_pow(n_failures)).min(RETRY_AT_MOST);
    let half = ceiling / 2;
    let millis = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_millis(random % (millis + 1))
}

/// What was shown, so that nothing is shown twice.
#[derive(Debug, Default)]
struct Shown {
    include_closed: bool,
    /// Each incident that is listed, as its line was without time and event.
    lines: BTreeMap<String, Line>,
    /// What was told since this connection began.
    told: BTreeSet<String>,
    /// Whether any connection told all that there was.
    has_been_complete: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    text: String,
    is_open: bool,
}

impl Shown {
    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// A connection begins.
    fn begin(&mut self, format: Format) -> Result<String, AskError> {
        self.told.clear();
        output::one_of_many(format, &shape::WatchedIncident::Begin, String::new)
    }

    /// An incident has changed, or is there in the beginning.
    fn change(&mut self, terminal: &Terminal, format: Format, change: v1::IncidentChange) -> Result<String, AskError> {
        let events: Vec<IncidentEvent> = change.events().collect();
        let v1::IncidentChange { incident, events: _, at_wall_usec } = change;
        let incident = incident.unwrap_or_default();
        let line = Line { text: line(&incident), is_open: incident.is_open };
        self.told.insert(incident.id.clone());
        let known = if line.is_open || self.include_closed {
            self.lines.insert(incident.id.clone(), line.clone())
        } else {
            self.lines.remove(&incident.id)
        };
        let is_new = !events.is_empty() || known.as_ref() != Some(&line);
        let text = || {
            let word = if events.is_empty() { state_word(&incident).to_owned() } else { words(&events, &incident) };
            if is_new { printed(terminal, at_wall_usec, &word, &line) } else { String::new() }
        };
        let shaped = shape::WatchedIncident::Incident {
            at: rfc3339(at_wall_usec),
            events: events.iter().map(|event| event_id(*event)).collect(),
            incident: Box::new(incident.clone().into()),
        };
        output::one_of_many(format, &shaped, text)
    }

    /// The beginning is over: what was listed and is not any more has ended while central was not heard.
    fn complete(&mut self, terminal: &Terminal, format: Format) -> Result<String, AskError> {
        self.has_been_complete = true;
        let told = &self.told;
        let gone: Vec<String> = self.lines.keys().filter(|id| !told.contains(*id)).cloned().collect();
        let gone: Vec<Line> = gone.iter().filter_map(|id| self.lines.remove(id)).collect();
        let text = || {
            let closed = gone.into_iter().map(|line| Line { is_open: false, ..line });
            closed.map(|line| printed(terminal, now_wall_usec(), "gone meanwhile", &line)).collect()
        };
        output::one_of_many(format, &shape::WatchedIncident::Complete, text)
    }
}

const fn state_word(incident: &v1::Incident) -> &'static str {
    if incident.is_open { "open" } else { "closed" }
}

/// A line with its time and what has become of the incident.
fn printed(terminal: &Terminal, at_wall_usec: i64, word: &str, line: &Line) -> String {
    let word = format!("{word:<14}");
    let word = if line.is_open { terminal.red(&word) } else { terminal.green(&word) };
    let Line { text, is_open: _ } = line;
    let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
    format!("{}  {name}  {word}  {rest}\n", local_date_time(at_wall_usec))
}

/// What of an incident is in its line: its name, cause, place, and whom it touches.
fn line(incident: &v1::Incident) -> String {
    let v1::Incident { id, cause, place, node, .. } = incident;
    let name = id.get(id.len().saturating_sub(NAME_CHARS)..).unwrap_or(id);
    let place = if place.is_empty() { node } else { place };
    let lasting = touched_by(incident.members.iter().filter(|member| member.until_wall_usec == 0));
    let touched = if lasting.is_empty() { touched_by(incident.members.iter()) } else { lasting };
    let mut named = touched[..touched.len().min(NAMED)].join(", ");
    if touched.len() > NAMED {
        named.push_str(&format!(" and {} more", touched.len() - NAMED));
    }
    one_line(format!("{name} {cause:<22}  {place:<16}  {named}").trim_end())
}

/// What became of an incident, for a person. That one that is new has members goes without saying.
fn words(events: &[IncidentEvent], incident: &v1::Incident) -> String {
    let words = events.iter().map(|event| match event {
        IncidentEvent::MemberJoined => "member joined".to_owned(),
        IncidentEvent::MemberEnded => "member over".to_owned(),
        IncidentEvent::MemberLeft => "member left".to_owned(),
        IncidentEvent::CauseChanged => "cause changed".to_owned(),
        IncidentEvent::ProbabilityChanged => format!("now {:.0} %", incident.probability * 100.0),
        IncidentEvent::Merged => {
            let into = &incident.merged_into;
            format!("merged into {}", into.get(into.len().saturating_sub(NAME_CHARS)..).unwrap_or(into))
        }
        IncidentEvent::Opened | IncidentEvent::Reopened | IncidentEvent::Closed => event_id(*event).to_owned(),
        // Of a newer central.
        IncidentEvent::Unspecified => "changed".to_owned(),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// What became of an incident, for a program: the words of central's metrics.
const fn event_id(event: IncidentEvent) -> &'static str {
    match event {
        IncidentEvent::Unspecified => "unknown",
        IncidentEvent::Opened => "opened",
        IncidentEvent::Reopened => "reopened",
        IncidentEvent::CauseChanged => "cause_changed",
        IncidentEvent::MemberJoined => "member_joined",
        IncidentEvent::MemberEnded => "member_ended",
        IncidentEvent::MemberLeft => "member_left",
        IncidentEvent::ProbabilityChanged => "probability_changed",
        IncidentEvent::Merged => "merged",
        IncidentEvent::Closed => "closed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal() -> Terminal {
        Terminal::capturing(Box::new(std::io::sink()), Box::new(std::io::sink()))
    }

    fn incident(vms: &[&str]) -> v1::Incident {
        let member = |name: &&str| v1::IncidentMember {
            subject: Some(v1::VerdictSubject {
                uid: (*name).to_owned(),
                namespace: "prod".to_owned(),
                name: (*name).to_owned(),
                node: "n1".to_owned(),
            }),
            symptom: "StuckStopping".to_owned(),
            ..Default::default()
        };
        v1::Incident {
            id: "01M7YSKCYD8SWMVF0B912FFEW5".to_owned(),
            cause: "LocalDiskStalled".to_owned(),
            node: "n1".to_owned(),
            place: "node/n1".to_owned(),
            is_open: true,
            probability: 0.83,
            members: vms.iter().map(member).collect(),
            ..Default::default()
        }
    }

    fn change(incident: v1::Incident, events: &[IncidentEvent]) -> v1::IncidentChange {
        let events = events.iter().map(|event| i32::from(*event)).collect();
        v1::IncidentChange { incident: Some(incident), events, at_wall_usec: 1_772_359_692_000_000 }
    }

    /// What a person is shown, without the time.
    fn human(shown: &mut Shown, incident: v1::Incident, events: &[IncidentEvent]) -> String {
        let text = shown.change(&terminal(), Format::Human, change(incident, events)).unwrap();
        text.split_once("  ").map(|(_, rest)| rest.to_owned()).unwrap_or_default()
    }

    #[test]
    fn a_line_says_what_became_of_which_incident_and_whom_it_touches() {
        let mut shown = Shown::default();
        assert_eq!(
            human(&mut shown, incident(&["db-0", "db-1"]), &[IncidentEvent::Opened]),
            "912FFEW5  opened          LocalDiskStalled        node/n1           VM prod/db-0 on n1, VM prod/db-1 on n1\n"
        );
        let events = [IncidentEvent::MemberJoined, IncidentEvent::ProbabilityChanged];
        let many = human(&mut shown, incident(&["a", "b", "c", "d", "e"]), &events);
        assert!(many.contains("member joined, now 83 %") && many.ends_with("VM prod/c on n1 and 2 more\n"), "{many}");
    }

    #[test]
    fn a_member_that_is_over_is_named_only_when_none_is_left() {
        let mut some = incident(&["a", "b"]);
        some.members[0].until_wall_usec = 1;
        assert!(!line(&some).contains("prod/a") && line(&some).contains("prod/b"), "{}", line(&some));
        some.members[1].until_wall_usec = 1;
        assert!(line(&some).contains("prod/a"), "{}", line(&some));
    }

    #[test]
    fn a_name_of_a_host_cannot_reach_the_terminal_as_a_control_sequence() {
        let mut shown = Shown::default();
        let text = human(&mut shown, incident(&["a\u{1b}[2J\nb"]), &[IncidentEvent::Opened]);
        assert!(!text.contains('\u{1b}') && text.lines().count() == 1, "{text:?}");
    }

    #[test]
    fn after_a_lost_connection_only_what_differs_is_shown() {
        let mut shown = Shown::default();
        let begin = |shown: &mut Shown| assert_eq!(shown.begin(Format::Human).unwrap(), "");
        let named = |id: &str| v1::Incident { id: id.repeat(26), ..incident(&["a"]) };
        begin(&mut shown);
        for id in ["A", "B", "C"] {
            assert!(human(&mut shown, named(id), &[]).contains("  open  "), "{id}");
        }
        assert_eq!(shown.complete(&terminal(), Format::Human).unwrap(), "");
        let closed = v1::Incident { is_open: false, ..named("C") };
        assert!(human(&mut shown, closed, &[IncidentEvent::Closed]).contains("  closed  "));

        begin(&mut shown);
        assert_eq!(human(&mut shown, named("A"), &[]), "", "it is as it was");
        assert!(human(&mut shown, named("D"), &[]).contains("  open  "));
        let text = shown.complete(&terminal(), Format::Human).unwrap();
        assert!(text.contains("BBBBBBBB  gone meanwhile") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn a_program_reads_an_object_a_line_and_is_told_when_it_begins_anew() {
        let mut shown = Shown::default();
        let mut text = shown.begin(Format::Json).unwrap();
        text += &shown.change(&terminal(), Format::Json, change(incident(&["a"]), &[])).unwrap();
        text += &shown.complete(&terminal(), Format::Json).unwrap();
        text += &shown.change(&terminal(), Format::Json, change(incident(&["a"]), &[IncidentEvent::Closed])).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kinds: Vec<&str> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["begin", "incident", "complete", "incident"]);
        assert_eq!(
            (&lines[1]["events"], &lines[3]["events"]),
            (&serde_json::json!([]), &serde_json::json!(["closed"]))
        );
        assert_eq!(lines[1]["incident"]["cause"], "LocalDiskStalled");
        assert_eq!(lines[1]["at"], "2026-03-01T10:08:12Z");
    }

    #[test]
    fn pauses_grow_to_half_a_minute_and_no_two_need_be_equal() {
        assert_eq!(pause(0, 0), Duration::from_millis(250));
        assert_eq!(pause(0, 250), Duration::from_millis(500));
        for n_failures in [6, 20, u32::MAX] {
            for random in [0, 1, u64::MAX] {
                let pause = pause(n_failures, random);
                assert!((Duration::from_secs(15)..=RETRY_AT_MOST).contains(&pause), "{n_failures} {pause:?}");
            }
        }
    }
}
