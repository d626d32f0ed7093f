//! The generated catalogue of findings, as text; a test compares the committed file.

use std::fmt::Write as _;

use kulprit_model::catalogue::{CATALOGUE, FindingSpec, Kind, ONLY_RECORDED, TEXT, TEXT_PROBES};

use serde::Serialize;

use crate::probes::{PROBES, ProbeSpec};

/// `docs/findings.md`: every finding and every probe.
#[must_use]
pub fn findings_markdown() -> String {
    let mut text = String::from(
        "# Findings\n\nWhat an agent can say about its node. Generated from the catalogue; do not edit.\n\n\
         A *state* is `Present`, `Absent` or `Unknown`; it is raised after it was seen for the first hold without a break, and \
         cleared after it was seen absent for the second. An *occurrence* happened and is counted. A *fault* is wrong by \
         itself; a *notice* is evidence when something else is.\n",
    );
    let mut probes: Vec<&str> = CATALOGUE.iter().map(|spec| spec.probe).collect();
    probes.dedup();
    for probe in probes {
        write(&mut text, &format!("\n## {probe}\n\n"));
        if let Some(spec) = PROBES.iter().find(|spec| spec.name == probe) {
            write(
                &mut text,
                &format!(
                    "{} Looks at {}, at least every {} s.\n\n",
                    spec.meaning,
                    spec.sources,
                    spec.look_every.as_secs()
                ),
            );
        }
        if probe == TEXT {
            let said = format!("Read by the probes `{}`, and from recorded cases.\n\n", TEXT_PROBES.join("` and `"));
            write(&mut text, &said);
        }
        if ONLY_RECORDED.contains(&probe) {
            write(&mut text, "Read from recorded cases (`kulprit diagnose`); no agent looks for these yet.\n\n");
        }
        write(
            &mut text,
            "| finding | kind | of | weight | threshold | raise, clear | condition | meaning |\n|---|---|---|---|---|---|---|---|\n",
        );
        CATALOGUE.iter().filter(|spec| spec.probe == probe).for_each(|spec| write(&mut text, &row(spec)));
    }
    text
}

#[derive(Serialize)]
struct JsonProbes {
    probes: Vec<JsonProbe>,
}

#[derive(Serialize)]
struct JsonProbe {
    name: &'static str,
    meaning: &'static str,
    sources: &'static str,
    needs: &'static str,
    lost_without: &'static str,
    look_every_secs: u64,
    findings: Vec<&'static str>,
}

/// `docs/probes.md`: what each probe looks at, what it needs, and what is lost without. What each costs stands in `docs/figures.md`.
#[must_use]
pub fn probes_markdown() -> String {
    let mut text = String::from(
        "# Probes\n\nWhat the agent looks at. Generated from the table of probes (`kulprit-agent probes`); do not edit.\n\n\
         A probe that cannot look says so, and all it owns is `Unknown`; the others go on. What each costs on an idle node, and how to \
         measure it, is in [figures.md](figures.md); what each can say, in [findings.md](findings.md). The agent needs no right at the \
         Kubernetes API, signals no process but plugins that it started itself, and writes nothing but its state folder.\n",
    );
    for spec in PROBES {
        let findings: Vec<String> =
            CATALOGUE.iter().filter(|row| row.probe == spec.name).map(|row| format!("`{}`", row.code)).collect();
        let findings = if findings.is_empty() {
            "what texts say (`ErrorSaid` and others)".to_owned()
        } else {
            findings.join(", ")
        };
        let every = spec.look_every.as_secs();
        write(&mut text, &format!("\n## {}\n\n{}\n\n", spec.name, spec.meaning));
        for (name, value) in [
            ("Looks at", spec.sources.to_owned()),
            ("At least every", format!("{every} s")),
            ("Needs", spec.needs.to_owned()),
            ("Unknown without", spec.lost_without.to_owned()),
            ("Says", findings),
        ] {
            write(&mut text, &format!("- {name}: {value}\n"));
        }
    }
    text
}

/// The probes for a person at a terminal.
#[must_use]
pub fn probes_text() -> String {
    let mut text = String::new();
    for spec in PROBES {
        let every = spec.look_every.as_secs();
        write(&mut text, &format!("{:<14} every {every:>3} s  {}\n", spec.name, spec.meaning));
        write(&mut text, &format!("{:<14} looks at {}\n", "", spec.sources));
    }
    text
}

/// The probes for a program: `{"probes":[{"name","meaning","sources","needs","lost_without","look_every_secs","findings":[…]}]}`.
#[must_use]
pub fn probes_json() -> String {
    let probe = |spec: &ProbeSpec| JsonProbe {
        name: spec.name,
        meaning: spec.meaning,
        sources: spec.sources,
        needs: spec.needs,
        lost_without: spec.lost_without,
        look_every_secs: spec.look_every.as_secs(),
        findings: CATALOGUE.iter().filter(|row| row.probe == spec.name).map(|row| row.code.as_str()).collect(),
    };
    let all = JsonProbes { probes: PROBES.iter().map(probe).collect() };
    serde_json::to_string_pretty(&all).expect("keys are texts and numbers are finite") + "\n"
}

fn row(spec: &FindingSpec) -> String {
    let holds = match spec.kind {
        Kind::State => format!("{}, {}", in_words(spec.raise_after_ms), in_words(spec.clear_after_ms)),
        Kind::Occurrence => String::new(),
    };
    let condition = spec.condition.map_or(String::new(), |condition| format!("`kulprit.io/{}`", condition.as_str()));
    format!(
        "| `{}` | {} | {} | {} | {} | {holds} | {condition} | {} |\n",
        spec.code,
        spec.kind.as_str(),
        spec.subject.as_str(),
        spec.severity.as_str(),
        spec.threshold,
        spec.meaning
    )
}

fn in_words(msec: u32) -> String {
    match msec {
        0 => "at once".to_owned(),
        _ if msec.is_multiple_of(1_000) => format!("{} s", msec / 1_000),
        _ => format!("{msec} ms"),
    }
}

fn write(text: &mut String, more: &str) {
    text.write_str(more).expect("writing to a String does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_exactly_one_row_with_its_meaning() {
        let text = findings_markdown();
        for spec in CATALOGUE {
            let rows: Vec<_> = text.lines().filter(|line| line.starts_with(&format!("| `{}` |", spec.code))).collect();
            assert_eq!(rows.len(), 1, "{}", spec.code);
            assert!(rows[0].contains(spec.meaning));
        }
    }
}
