//! The guests' boot sectors, assembled from `guests/*.S` when a test asks for them.
//!
//! 512 bytes each, in real mode (the eater ends in 32-bit protected mode): they boot under `-accel kvm` in about a second, also on a
//! machine that is a VM itself, and do one thing that shows from outside.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::shell;

/// Bytes of a disk sector.
pub(crate) const SECTOR: usize = 512;
/// Ticks of a PC's timer in a second.
const PIT_HZ: u64 = 1_193_182;
/// As `eater.S`.
const PAGES_A_WAIT: u64 = 16;
const PAGES_A_MIB: u64 = 256;
/// What a guest writes into the second sector of its disk once it runs.
const UP: &[u8] = b"KULPRIT UP";

/// Writes a boot sector to a disk image, and wipes the sign of an earlier run.
pub(crate) fn write_boot_sector(image: &Path, sector: &[u8]) -> Result<()> {
    let file = File::options().write(true).open(image)?;
    file.write_all_at(sector, 0)?;
    file.write_all_at(&[0; SECTOR], SECTOR as u64)?;
    Ok(file.sync_all()?)
}

/// Whether the guest on a disk image has said there that it runs.
pub(crate) fn is_up(image: &Path) -> Result<bool> {
    let mut sector = [0; UP.len()];
    File::open(image)?.read_exact_at(&mut sector, SECTOR as u64)?;
    Ok(sector == UP)
}

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Program {
    /// Nothing, for ever; ignores the ACPI power button.
    Idle,
    /// Nothing, until the ACPI power button is pressed: then it powers off.
    Polite,
    /// Writes its disk from start to end and round again, `bursts` × 32 KiB 18 times a second.
    Writer {
        /// Writes per timer tick; 8 are 4.6 MiB/s.
        bursts: u16,
    },
    /// Reads its disk in the same way.
    Reader {
        /// Reads per timer tick.
        bursts: u16,
    },
    /// Writes to every page of `mib` MiB of its memory, for ever.
    Eater {
        /// How much; the guest has 32 MiB more.
        mib: u32,
        /// Loop turns between two pages. Measured under nested KVM, which emulates this code: 1 grows by
        /// 280 MiB/s, 100 by 75, 1000 by 5.
        delay: u32,
    },
    /// Writes to every page of `mib` MiB of its memory once, and then goes on at the same rate on every machine, by its timer.
    Dirtier {
        /// How much; the guest has 32 MiB more.
        mib: u32,
        /// MiB dirtied in a second; 2 and more.
        mib_per_sec: u32,
    },
}

impl Program {
    /// Memory a guest needs for it, MiB.
    pub(crate) fn memory_mib(self) -> u32 {
        match self {
            Self::Idle | Self::Polite | Self::Writer { .. } | Self::Reader { .. } => 32,
            Self::Eater { mib, .. } | Self::Dirtier { mib, .. } => mib + 32,
        }
    }

    /// Its boot sector, for a disk of `disk_sectors`.
    ///
    /// # Errors
    /// If binutils are missing.
    pub(crate) fn assemble(self, disk_sectors: u64) -> Result<Vec<u8>> {
        let (source, symbols) = match self {
            Self::Idle => ("idle", vec![]),
            Self::Polite => ("polite", vec![]),
            Self::Writer { bursts } => ("writer", access_symbols(bursts, disk_sectors, false)),
            Self::Reader { bursts } => ("writer", access_symbols(bursts, disk_sectors, true)),
            Self::Eater { mib, delay } => ("eater", eater_symbols(mib, delay)),
            Self::Dirtier { mib, mib_per_sec } => {
                let ticks = PIT_HZ * PAGES_A_WAIT / (u64::from(mib_per_sec.max(2)) * PAGES_A_MIB);
                let mut symbols = eater_symbols(mib, 1);
                symbols.push(format!("TICKS={ticks}"));
                ("eater", symbols)
            }
        };
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests");
        let scratch = tempfile::tempdir()?;
        let at = |path: PathBuf| path.to_string_lossy().into_owned();
        let (object, sector) = (at(scratch.path().join("o")), at(scratch.path().join("sector")));

        let mut line = vec![
            "as".to_owned(),
            "--32".to_owned(),
            "-I".to_owned(),
            at(sources.clone()),
            "-o".to_owned(),
            object.clone(),
        ];
        for symbol in symbols {
            line.extend(["--defsym".to_owned(), symbol]);
        }
        line.push(at(sources.join(format!("{source}.S"))));
        shell::run(&line.iter().map(String::as_str).collect::<Vec<_>>())?;
        shell::run(&["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", &sector, &object])?;
        let bytes = std::fs::read(&sector)?;
        (bytes.len() == SECTOR).then_some(bytes).context("a guest is one sector long")
    }
}

fn access_symbols(bursts: u16, disk_sectors: u64, reads: bool) -> Vec<String> {
    vec![format!("BURST={bursts}"), format!("SECTORS={disk_sectors}"), format!("READ={}", u8::from(reads))]
}

fn eater_symbols(mib: u32, delay: u32) -> Vec<String> {
    vec![format!("DELAY={delay}"), format!("SIZE={}", u64::from(mib) << 20)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_is_one_bootable_sector() {
        let programs = [
            Program::Idle,
            Program::Polite,
            Program::Writer { bursts: 8 },
            Program::Reader { bursts: 8 },
            Program::Eater { mib: 128, delay: 200 },
            Program::Dirtier { mib: 128, mib_per_sec: 4 },
        ];
        for program in programs {
            let sector = program.assemble(32768).unwrap();
            assert_eq!(sector[510..], [0x55, 0xaa], "{program:?}");
        }
    }
}
