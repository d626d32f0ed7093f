//! Which devices a version 1 device cgroup allows.
//!
//! Version 2 keeps its rules in a BPF program that cannot be read as text. Source: kernel
//! `Documentation/admin-guide/cgroup-v1/devices.rst`.

use crate::mount::DeviceNumber;

/// One rule of `devices.list`: what it names is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Block devices; `Some(false)`: character devices. `None`: both.
    pub is_block: Option<bool>,
    /// `None` is any.
    pub major: Option<u32>,
    /// `None` is any.
    pub minor: Option<u32>,
    /// Whether it may be both read and written.
    pub is_read_write: bool,
}

impl DeviceRule {
    /// Whether it allows to read and write this device.
    pub fn allows(&self, is_block: bool, device: DeviceNumber) -> bool {
        self.is_read_write
            && self.is_block.is_none_or(|only| only == is_block)
            && self.major.is_none_or(|major| major == device.major)
            && self.minor.is_none_or(|minor| minor == device.minor)
    }
}

/// Parses `devices.list`; lines that are no rule are left out.
pub fn parse_devices_list(text: &str) -> Vec<DeviceRule> {
    let rule = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let is_block = match fields.next()? {
            "a" => None,
            "b" => Some(true),
            "c" => Some(false),
            _ => return None,
        };
        let (major, minor) = fields.next()?.split_once(':')?;
        let number = |text: &str| match text {
            "*" => Some(None),
            number => number.parse().ok().map(Some),
        };
        let access = fields.next()?;
        let is_read_write = access.contains('r') && access.contains('w');
        Some(DeviceRule { is_block, major: number(major)?, minor: number(minor)?, is_read_write })
    };
    text.lines().filter_map(rule).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(list: &str, is_block: bool, device: &str, want: bool) {
        let device = DeviceNumber::parse(device).unwrap();
        assert_eq!(
            parse_devices_list(list).iter().any(|rule| rule.allows(is_block, device)),
            want,
            "{list:?} {device}"
        );
    }

    #[test]
    fn a_rule_allows_what_it_names() {
        check("a *:* rwm\n", false, "10:232", true);
        check("c 10:232 rwm\n", false, "10:232", true);
        check("c 10:232 rwm\n", true, "10:232", false);
        check("c 10:* rw\nb *:* m\n", false, "10:232", true);
        check("b *:* m\n", true, "8:0", false);
        check("c 10:200 rwm\ngarbage\nc x:1 rw\n", false, "10:232", false);
        check("", false, "10:232", false);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "([abcx] [0-9*]{0,12}:[0-9*]{0,12} [rwm]{0,4}\\PC{0,9}\n?){0,4}") {
            let _ = parse_devices_list(&text);
        }
    }
}
