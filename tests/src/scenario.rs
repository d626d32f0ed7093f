//! Faults from their beginning to their end, as Kulprit tells them: what must be found, what must be said, and that it goes by itself.
//!
//! A [`Scenario`] is a file in `tests/scenarios`; [`play_all`] plays it on a [`Stage`] of two real nodes with Kulprit's own programs and
//! says what came out. Played by `make lab` (all, or `SCENARIO=name` with its timeline) and, those marked `core`, by `make test`.

mod check;
mod file;
mod met;
mod play;
mod stage;
mod table;
mod watch;
mod words;

pub use file::{Expected, Scenario, Step};
pub use play::play;
pub use stage::Stage;
pub use table::{Played, Spent, table};

/// Plays scenarios one after the other, on one stage for as long as they go well. `done` is told of each when it is over.
///
/// `is_told`: their timelines are printed as they happen.
pub fn play_all(scenarios: &[Scenario], is_told: bool, mut done: impl FnMut(&Played)) -> Vec<Played> {
    let mut stage: Option<Stage> = None;
    let mut all = Vec::new();
    for scenario in scenarios {
        let opened = stage.take().map_or_else(Stage::open, Ok);
        let played = match opened {
            Ok(opened) => {
                let played = play(&opened, scenario, is_told);
                // What a failure left behind is nobody else's fault.
                stage = played.error.is_none().then_some(opened);
                played
            }
            Err(error) => Played::not_played(scenario, format!("no stage: {error:#}")),
        };
        done(&played);
        all.push(played);
    }
    all
}
