//! `docs/causes.md`, generated from the catalogue so that it cannot say anything else.

use std::fmt::Write as _;

use crate::catalogue::{CAUSES, Cause, Step};

/// The whole page, Markdown, ending with a newline.
#[must_use]
pub fn causes_markdown() -> String {
    let mut page = String::from(
        "# Causes\n\nGenerated from the catalogue in `central/diagnosis/src/causes/`; do not edit.\n\n\
         A cause's score for a symptom is its prior (usual 0, possible −5, rare −10, else −15 decibans) plus, for each group of \
         clues, the strongest clue × how near it is (the VM's own 1, its node's 0.6, another VM's 0) × how fresh. `Unexplained` \
         has 10. Ids are a contract: they are added to, never renamed.\n\n\
         | cause | class | role | means | usual symptoms | possible | explains | runbook item |\n|---|---|---|---|---|---|---|---|\n",
    );
    for cause in CAUSES {
        let roles = cause.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ");
        let names =
            |symptoms: &[crate::SymptomId]| symptoms.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(", ");
        write_line(
            &mut page,
            format_args!(
                "| [`{id}`](#{anchor}) | {class} | {roles} | {meaning} | {usual} | {possible} | {explains} | {item} |",
                id = cause.id,
                anchor = cause.anchor(),
                class = cause.class.as_str(),
                meaning = cause.meaning,
                usual = names(cause.usual),
                possible = names(cause.possible),
                explains = cause.explains.join(", "),
                item = cause.runbook_item,
            ),
        );
    }
    for cause in CAUSES {
        section(&mut page, cause);
    }
    page
}

fn section(page: &mut String, cause: &Cause) {
    write_line(page, format_args!("\n## {}\n\n{}", cause.id, cause.meaning));
    if !cause.clues.is_empty() {
        write_line(page, format_args!("\n| group | decibans | what is seen | in the findings |\n|---|---|---|---|"));
    }
    for clue in cause.clues {
        write_line(
            page,
            format_args!(
                "| {} | {:+} ({}) | {} | {} |",
                clue.group,
                clue.strength.decibans(),
                clue.strength.as_str(),
                clue.text,
                clue.look.describe()
            ),
        );
    }
    for (title, steps) in [("Now", cause.advice.now), ("Check", cause.advice.check), ("Prevent", cause.advice.prevent)]
    {
        if steps.is_empty() {
            continue;
        }
        write_line(page, format_args!("\n**{title}**\n"));
        for step in steps {
            let where_text = match step {
                Step::Any(_) => "",
                Step::Standalone(_) => " (libvirt)",
                Step::KubeVirt(_) => " (KubeVirt)",
            };
            // Two back-ticks, because commands have single ones.
            write_line(page, format_args!("- `` {} ``{where_text}", step.text()));
        }
    }
}

fn write_line(page: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(page, "{line}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_a_row_and_a_section_with_each_of_its_clues() {
        let page = causes_markdown();
        for cause in CAUSES {
            assert!(page.contains(&format!("| [`{}`]", cause.id)) && page.contains(&format!("\n## {}\n", cause.id)));
            for clue in cause.clues {
                assert!(page.contains(&clue.look.describe()), "{}: {}", cause.id, clue.text);
            }
        }
    }

    #[test]
    fn no_cell_breaks_its_table() {
        for cause in CAUSES {
            let cells =
                cause.clues.iter().flat_map(|clue| [clue.group, clue.text]).chain([cause.meaning, cause.runbook_item]);
            for cell in cells {
                assert!(!cell.contains(['|', '\n']), "{}: {cell}", cause.id);
            }
        }
    }
}
