//! `kulprit causes`: the catalogue of causes, as central knows it.

use std::fmt::Write as _;

use kulprit_proto::v1;

use crate::{Terminal, commands::Ask, error::AskError, output, shape, table::Table};

pub(super) async fn answer(ask: &Ask, terminal: &mut Terminal, id: Option<String>) -> Result<(), AskError> {
    let mut central = ask.central().await?;
    let causes = ask.take(central.list_causes(v1::ListCausesRequest {}).await)?.causes;
    let mut causes: Vec<shape::CatalogueCause> = causes.into_iter().map(shape::CatalogueCause::from).collect();
    if let Some(id) = &id {
        causes.retain(|cause| cause.id.eq_ignore_ascii_case(id));
        if causes.is_empty() {
            return Err(AskError::NoSuchCause(id.clone()));
        }
    }
    let shaped = shape::Causes { causes };
    output::print(terminal, ask.format, &shaped, |terminal| match (&id, shaped.causes.as_slice()) {
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
