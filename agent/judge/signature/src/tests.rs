//! Every row on its own example, texts of forms that no row knows, look-alikes, and arbitrary bytes.

use super::*;

#[test]
fn every_row_is_named_by_its_own_example() {
    let signatures = Signatures::new();
    let mut wrong = Vec::new();
    for row in SIGNATURES {
        let said = Text { speaker: Speaker::Other, reason: None, text: row.example };
        let name = match signatures.peel(&said) {
            Peeled::Said(attributes) => attributes.get(kulprit_model::attribute::SIGNATURE).map(str::to_owned),
            other => Some(format!("{other:?}")),
        };
        if name.as_deref() != Some(row.name) || !signatures.is_candidate(row.example.as_bytes()) {
            wrong.push(format!("{} ({}): {name:?}", row.name, row.example));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
