//! Captures, of an incident or asked for: what nodes showed of each VM, and the minutes before as one line per figure.

use std::fmt::Write as _;

use kulprit_proto::v1;

use crate::{Terminal, page, table::one_line, when::local_date_time};

/// Width of a figure's line, characters: five minutes, six seconds each.
const WIDTH: usize = 50;
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One capture after the other; the texts too with `with_texts`.
pub(super) fn render(terminal: &Terminal, incident: &v1::Incident, with_texts: bool) -> String {
    let mut text = String::new();
    for capture in &incident.captures {
        let Some(result) = &capture.result else { continue };
        let subject = incident.members.iter().filter_map(|member| member.subject.as_ref());
        let whom = subject
            .into_iter()
            .find(|subject| subject.uid == result.vm_uid)
            .map_or_else(|| format!("VM {} on {}", result.vm_uid, capture.node), page::wire_subject_words);
        text.push_str(&render_one(terminal, &whom, result, with_texts));
    }
    text
}

/// One capture of `whom`; the texts too with `with_texts`.
pub(in crate::commands) fn render_one(
    terminal: &Terminal,
    whom: &str,
    result: &v1::CaptureResult,
    with_texts: bool,
) -> String {
    let mut text = String::new();
    let at = result.at.map_or_else(String::new, |at| local_date_time(at.wall_usec));
    let _ = writeln!(text, "\n{}", terminal.bold(&format!("Capture of {}, {at}", one_line(whom))));
    if !result.series.is_empty() {
        text.push_str("  The five minutes before, or before it was suspected:\n");
        let width = result.series.iter().map(|series| series.name.chars().count()).max().unwrap_or(0);
        result.series.iter().for_each(|series| text.push_str(&line_of(series, width)));
    }
    if with_texts {
        result.sections.iter().for_each(|section| text.push_str(&section_text(terminal, section)));
    } else {
        let parts = result.sections.iter().filter(|section| !section.text.is_empty());
        let parts: Vec<String> =
            parts.map(|section| format!("{} ({} lines)", section.name, section.text.lines().count())).collect();
        let _ = writeln!(text, "  Shown with --captures: {}", parts.join(", "));
    }
    text
}

/// A figure over time: a bar for each slice, the highest of it, on a scale from 0 to the highest of all.
fn line_of(series: &v1::CaptureSeries, name_width: usize) -> String {
    let mut known = series.values.iter().copied().filter(|value| value.is_finite());
    let highest = known.clone().fold(0.0_f32, f32::max);
    let last = known.next_back();
    let Some(last) = last else { return String::new() };
    let slice = series.values.len().div_ceil(WIDTH).max(1);
    let bars: String = series
        .values
        .chunks(slice)
        .map(|values| {
            let top = values.iter().copied().filter(|value| value.is_finite()).reduce(f32::max);
            top.map_or(' ', |top| LEVELS[level(top, highest)])
        })
        .collect();
    let unit = if series.unit == "percent" { "%".to_owned() } else { format!(" {}", series.unit) };
    format!("    {:<name_width$}  {bars}  highest {highest:.1}{unit}, at the end {last:.1}{unit}\n", series.name)
}

/// 0 to 7.
fn level(value: f32, highest: f32) -> usize {
    if highest <= 0.0 {
        return 0;
    }
    let share = (value / highest).clamp(0.0, 1.0);
    (1..LEVELS.len()).filter(|step| share * 8.0 > f32::from(u8::try_from(*step).unwrap_or(u8::MAX))).count()
}

fn section_text(terminal: &Terminal, section: &v1::CaptureSection) -> String {
    let mut text = format!("\n  {}\n", terminal.bold(&section.name));
    for line in section.text.lines() {
        let _ = writeln!(text, "    {}", one_line(line));
    }
    if !section.lacks.is_empty() {
        let _ = writeln!(text, "    ({})", one_line(&section.lacks));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal() -> Terminal {
        Terminal::capturing(Box::new(std::io::sink()), Box::new(std::io::sink()))
    }

    fn incident(values: Vec<f32>) -> v1::Incident {
        let series =
            v1::CaptureSeries { name: "node io full".to_owned(), unit: "percent".to_owned(), end: None, values };
        let section = |name: &str, text: &str, lacks: &str| v1::CaptureSection {
            name: name.to_owned(),
            text: text.to_owned(),
            lacks: lacks.to_owned(),
        };
        let result = v1::CaptureResult {
            vm_uid: "a".to_owned(),
            series: vec![series],
            sections: vec![section("threads", "one\ntwo\u{1b}[2J\n", ""), section("qemu-log", "", "no file")],
            ..v1::CaptureResult::default()
        };
        let subject = v1::VerdictSubject { uid: "a".to_owned(), name: "db-0".to_owned(), ..Default::default() };
        let member = v1::IncidentMember { subject: Some(subject), ..Default::default() };
        let capture = v1::Capture { node: "n1".to_owned(), result: Some(result) };
        v1::Incident { members: vec![member], captures: vec![capture], ..Default::default() }
    }

    #[test]
    fn figures_are_lines_and_texts_are_named() {
        let text = render(&terminal(), &incident(vec![0.0, f32::NAN, 50.0, 100.0]), false);
        assert!(text.contains("▁ ▄█  highest 100.0%, at the end 100.0%"), "{text}");
        assert!(text.contains("threads (2 lines)") && !text.contains("qemu-log"), "{text}");
        assert!(text.contains("db-0"), "{text}");
    }

    #[test]
    fn with_captures_every_line_is_shown_and_none_paints_the_terminal() {
        let text = render(&terminal(), &incident(vec![1.0]), true);
        assert!(text.contains("    two") && text.contains("(no file)") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn levels_go_from_lowest_to_highest() {
        let levels: Vec<usize> = [0.0, 1.0, 12.6, 50.0, 99.0, 100.0].map(|value| level(value, 100.0)).to_vec();
        assert_eq!(levels, [0, 0, 1, 3, 7, 7]);
        assert_eq!(level(0.0, 0.0), 0);
    }
}
