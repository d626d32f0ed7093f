//! `kulprit can-migrate`: could this VM migrate now, to which nodes, and what would stop it.
//!
//! Asks only: no migration is made. The exit status is for scripts that drain nodes: 0 yes (with or without warnings), 1 no, 3 not
//! enough is known, 2 could not be asked.

use std::process::ExitCode;

use jiff::tz::TimeZone;
use kulprit_proto::v1;

use super::{
    Ask,
    why::{ONLY_UNEXPLAINED, Whom},
};
use crate::{Terminal, error::AskError, output, page, shape};

/// Exit status when it cannot migrate.
const NO: u8 = 1;

pub(super) async fn answer(
    ask: &Ask,
    terminal: &mut Terminal,
    name: &str,
    namespace: Option<&str>,
    to: Option<String>,
) -> Result<ExitCode, AskError> {
    let Whom::Vm(vm) = Whom::new(name, namespace) else {
        return Err(AskError::Refused { message: format!("`{name}` is no VM: only VMs migrate") });
    };
    let to = to.map(|to| to.strip_prefix("node/").map_or_else(|| to.clone(), ToOwned::to_owned)).unwrap_or_default();
    let mut central = ask.central().await?;
    let answer = ask.take(central.can_migrate(v1::CanMigrateRequest { vm, to }).await)?;
    let shaped = shape::CanMigrate::from(answer);
    output::print(terminal, ask.format, &shaped, |terminal| {
        page::can_migrate::page(terminal, &shaped, &TimeZone::system())
    })?;
    Ok(match shaped.answer {
        "no" => ExitCode::from(NO),
        // Nothing is known for certain, as where `why` finds only Unexplained.
        "unknown" => ExitCode::from(ONLY_UNEXPLAINED),
        _ => ExitCode::SUCCESS,
    })
}
