//! The processors: which they are, the clock they give the kernel, how often they were too hot or reported a machine check.
//!
//! Sources: `/proc/cpuinfo`; kernel `Documentation/admin-guide/pm/`, `arch/x86/kernel/cpu/mce/therm_throt.c`
//! (`thermal_throttle/*_throttle_count`), `kernel/time/clocksource.c`; `/proc/interrupts` as `arch/x86/kernel/irq.c`
//! (`arch_show_interrupts`) writes it, `Documentation/arch/x86/x86_64/machinecheck.rst`.

use crate::{HostRoot, ReadError};

/// Most of `/proc/cpuinfo` that is read, bytes: some 1.5 KiB for each processor.
const CPUINFO_LIMIT_BYTES: usize = 8 << 20;
/// Most of `/proc/interrupts` that is read, bytes: 11 for each processor in each of some thousand rows. The rows wanted are the last.
const INTERRUPTS_LIMIT_BYTES: usize = 16 << 20;
/// Processors whose heat is read; they share their package's count.
const MAX_CPUS: usize = 1024;

/// Which processor this is. `None` for what is not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processor {
    /// `AMD EPYC 7763 64-Core Processor`.
    pub model: Option<String>,
    /// Revision of its microcode: `0xa0011d1`.
    pub microcode: Option<String>,
}

/// Parses the first processor of `/proc/cpuinfo`; the others are the same on any machine that boots.
pub fn parse_processor(text: &str) -> Processor {
    let field = |name: &str| {
        let value = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim_end() == name)?.1;
        Some(value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    Processor { model: field("model name"), microcode: field("microcode") }
}

/// Reads which processor this is.
///
/// # Errors
/// See [`ReadError`].
pub fn read_processor(root: &HostRoot) -> Result<Processor, ReadError> {
    let bytes = root.read_bytes("proc/cpuinfo", CPUINFO_LIMIT_BYTES)?;
    Ok(parse_processor(&String::from_utf8_lossy(&bytes)))
}

/// What the kernel takes its time from: `tsc`, `kvm-clock`, `hpet`, `acpi_pm`.
///
/// # Errors
/// See [`ReadError`].
pub fn read_clocksource(root: &HostRoot) -> Result<String, ReadError> {
    let text = root.read_text("sys/devices/system/clocksource/clocksource0/current_clocksource")?;
    Ok(text.trim().to_owned())
}

/// How often the processors were slowed down because they were too hot, since the boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heat {
    /// Sum over all processors; those of one core count the same event.
    pub core_total: u64,
    /// The largest of all packages' counts.
    pub package_total: u64,
}

/// Reads the counts. `None` where no processor has them: another vendor, or a virtual machine.
pub fn read_heat(root: &HostRoot) -> Option<Heat> {
    let mut heat: Option<Heat> = None;
    let names = root.list("sys/devices/system/cpu").ok()?;
    let is_cpu = |name: &&str| name.strip_prefix("cpu").is_some_and(|number| number.parse::<u32>().is_ok());
    for name in names.iter().filter_map(|name| name.to_str()).filter(is_cpu).take(MAX_CPUS) {
        let number = |file: &str| {
            let path = format!("sys/devices/system/cpu/{name}/thermal_throttle/{file}_throttle_count");
            crate::limits::read_number(root, path).ok()
        };
        // One that has none has none anywhere: 256 processors are not asked in vain.
        let Some(core) = number("core") else { break };
        let all = heat.get_or_insert_default();
        all.core_total = all.core_total.saturating_add(core);
        all.package_total = all.package_total.max(number("package").unwrap_or(0));
    }
    heat
}

/// Machine checks since the boot, summed over the processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineChecks {
    /// Exceptions (`MCE`): errors that the hardware could not correct. Most are told to every processor, which then counts it too.
    pub exceptions_total: u64,
    /// Polls (`MCP`): looks of the kernel for corrected errors, every few minutes. They count looks, not errors.
    pub polls_total: u64,
}

/// Parses the rows `MCE` and `MCP` of `/proc/interrupts`. `None` where there is no `MCE`: another architecture, or a kernel
/// without machine checks.
pub fn parse_machine_checks(text: &str) -> Option<MachineChecks> {
    let total = |name: &str| {
        let row = text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
        // The numbers stand before the row's meaning.
        let mut numbers = row.split_ascii_whitespace().map_while(|word| word.parse::<u64>().ok()).peekable();
        numbers.peek()?;
        Some(numbers.fold(0, u64::saturating_add))
    };
    Some(MachineChecks { exceptions_total: total("MCE")?, polls_total: total("MCP").unwrap_or(0) })
}

/// Reads the machine checks. `Ok(None)` where the kernel does not count them.
///
/// # Errors
/// See [`ReadError`].
pub fn read_machine_checks(root: &HostRoot) -> Result<Option<MachineChecks>, ReadError> {
    let bytes = root.read_bytes("proc/interrupts", INTERRUPTS_LIMIT_BYTES)?;
    Ok(parse_machine_checks(&String::from_utf8_lossy(&bytes)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::tree;
    use super::*;

    #[test]
    fn model_and_microcode_are_those_of_the_first_processor() {
        let text =
            "processor\t: 0\nmodel name\t: AMD EPYC\nmicrocode\t: 0x1000065\n\nprocessor\t: 1\nmodel name\t: other\n";
        let want = Processor { model: Some("AMD EPYC".to_owned()), microcode: Some("0x1000065".to_owned()) };
        assert_eq!(parse_processor(text), want);
        assert_eq!(parse_processor("model name :\n"), Processor::default());
        assert!(read_processor(&HostRoot::new("/")).is_ok());
    }

    #[test]
    fn heat_is_counted_where_processors_have_it() {
        let (_dir, root) = tree(&[
            ("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "2\n"),
            ("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "7\n"),
            ("sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", "3\n"),
            ("sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count", "6\n"),
            ("sys/devices/system/cpu/cpufreq/x", ""),
        ]);
        assert_eq!(read_heat(&root), Some(Heat { core_total: 5, package_total: 7 }));
        let (_dir, root) = tree(&[("sys/devices/system/cpu/cpu0/topology/x", "")]);
        assert_eq!(read_heat(&root), None);
    }

    #[test]
    fn machine_checks_are_summed_and_polls_are_told_apart() {
        // As a physical host of two processors shows them.
        let text = "           CPU0       CPU1\n  0:         10          0  IR-IO-APIC    2-edge      timer\n\
            TRM:          0          0   Thermal event interrupts\nDFR:          0          0   Deferred Error APIC interrupts\n\
            MCE:          1          2   Machine check exceptions\nMCP:         30         31   Machine check polls\n\
            ERR:          0\n";
        assert_eq!(parse_machine_checks(text), Some(MachineChecks { exceptions_total: 3, polls_total: 61 }));
        let alone = parse_machine_checks("MCE: 0 Machine check exceptions");
        assert_eq!(alone, Some(MachineChecks::default()));
        for text in ["", "ERR: 0\n", "MCE: Machine check exceptions\n", "MCE\n", "XMCE: 1\n"] {
            assert_eq!(parse_machine_checks(text), None, "{text:?}");
        }
        let (_dir, root) = tree(&[("proc/interrupts", text)]);
        assert_eq!(read_machine_checks(&root).unwrap().unwrap().exceptions_total, 3);
        assert!(read_machine_checks(&HostRoot::new("/")).is_ok());
    }

    #[test]
    fn this_machine_has_a_source_of_time() {
        assert!(!read_clocksource(&HostRoot::new("/")).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in "(model name|microcode|MCE|MCP)?\\s?:?[0-9 ]{0,50}\\PC{0,40}") {
            let _ = parse_processor(&text);
            let _ = parse_machine_checks(&text);
        }
    }
}
