//! The known texts: what each fixes of actor, operation, class and side, the file and version it comes from, an example.
//!
//! A row sharpens what the words of a text tell; it never copies an incident. [`SIGNATURES`] is the list that authors of
//! causes refer to by name. Rows stand by what they are about, the specific ones first: the first that matches names the text.
//! A row leaves to the words what it does not fix ([`ANY`]).

mod image;
mod kubevirt;
mod libvirt;
mod network;
mod node;
mod qemu;
mod volume;

use kulprit_model::side::Side;

/// In a row: the words of the text decide.
pub const ANY: &str = "";

/// One known text.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name, kebab-case; the value of the attribute `signature`.
    pub name: &'static str,
    /// A fixed part of every such text, lower case, found without regard to case.
    pub needle: &'static str,
    /// The form of the text, a regular expression without regard to case; empty if the needle alone is enough.
    pub pattern: &'static str,
    /// Who failed, or [`ANY`].
    pub actor: &'static str,
    /// Doing what, or [`ANY`].
    pub operation: &'static str,
    /// How, or [`ANY`].
    pub class: &'static str,
    /// On which end of a migration, if the text tells.
    pub side: Option<Side>,
    /// File and version it comes from, or `general`.
    pub source: &'static str,
    /// Such a text.
    pub example: &'static str,
}

/// Rows of one subject.
macro_rules! rows {
    ($($name:literal, $needle:literal, $pattern:literal, $actor:expr, $operation:expr, $class:expr, $side:expr, $source:literal, $example:literal;)*) => {
        &[$($crate::table::Row {
            name: $name, needle: $needle, pattern: $pattern, actor: $actor, operation: $operation, class: $class,
            side: $side, source: $source, example: $example,
        },)*]
    };
}
use rows;

const TABLES: [&[Row]; 7] =
    [qemu::ROWS, libvirt::ROWS, kubevirt::ROWS, volume::ROWS, image::ROWS, network::ROWS, node::ROWS];

const fn n_rows() -> usize {
    let mut n = 0;
    let mut table = 0;
    while table < TABLES.len() {
        n += TABLES[table].len();
        table += 1;
    }
    n
}

const fn all_rows() -> [Row; n_rows()] {
    let mut all = [TABLES[0][0]; n_rows()];
    let (mut n, mut table) = (0, 0);
    while table < TABLES.len() {
        let mut row = 0;
        while row < TABLES[table].len() {
            all[n] = TABLES[table][row];
            n += 1;
            row += 1;
        }
        table += 1;
    }
    all
}

/// Every known text.
pub const SIGNATURES: &[Row] = &all_rows();
