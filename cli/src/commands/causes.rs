//! `kulprit causes`: the catalogue of causes this command was built with; needs no central.

use std::fmt::Write as _;

use kulprit_diagnosis::CAUSES;

use crate::{Terminal, arguments::Format, error::AskError, output, shape, table::Table};

pub(super) fn answer(format: Format, terminal: &mut Terminal, id: Option<&str>) -> Result<(), AskError> {
    let is_asked_for = |cause: &str| id.is_none_or(|id| cause.eq_ignore_ascii_case(id));
    let causes: Vec<shape::CatalogueCause> =
        CAUSES.iter().filter(|cause| is_asked_for(cause.id)).map(|cause| (*cause).into()).collect();
    if let (Some(id), true) = (id, causes.is_empty()) {
        return Err(AskError::NoSuchCause(id.to_owned()));
    }
    let shaped = shape::Causes { causes };
    output::print(terminal, format, &shaped, |terminal| match (id, shaped.causes.as_slice()) {
        (Some(_), [cause]) => page(terminal, cause),
        (_, causes) => {
            let mut table = Table::new(&["CAUSE", "MEANING"]);
            for cause in causes {
                table.row([cause.id.clone().into(), cause.meaning.clone().into()]);
            }
            table.render(terminal)
        }
    })
}

fn page(terminal: &Terminal, cause: &shape::CatalogueCause) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}: {}", terminal.bold(&cause.id), cause.meaning);
    let _ = writeln!(text, "  Symptoms: {}", cause.symptoms.join(", "));
    let _ = writeln!(text, "  Roles:    {}", cause.roles.join(", "));
    let _ = writeln!(text, "  Runbook:  {}", cause.runbook_item);
    let groups = [
        ("Clues", &cause.clues),
        ("Do now", &cause.remedy.now),
        ("Check", &cause.remedy.check),
        ("Prevent", &cause.remedy.prevent),
    ];
    for (title, lines) in groups {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{}", terminal.bold(title));
            for line in lines {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
    text
}
