//! Time stamps as logs write them, to Unix microseconds.
//!
//! Calendar arithmetic is done here (proleptic Gregorian, no leap seconds) because the crate needs nothing else of a time
//! library. A zone that is written is used; a stamp without one is UTC; a stamp without a year takes the latest year that is not
//! after the moment of asking, with a day's slack for clocks and zones. Seconds since boot stay what they are until a boot time
//! is known.

const SEC: i64 = 1_000_000;
const DAY_SECS: i64 = 86_400;
/// A stamp without a year may lie so far after the moment of asking: the host's zone is not written, and logs are collected
/// after the case's moment.
const YEAR_SLACK_USEC: i64 = DAY_SECS * SEC;

/// What a stamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Unix time, microseconds.
    Wall(i64),
    /// Since boot, microseconds.
    Boot(i64),
}

/// How much of the time the stamp itself tells: of several stamps of a line the best is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Quality {
    Boot,
    NoYear,
    NoZone,
    Full,
}

/// A stamp at the beginning of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) when: When,
    pub(super) quality: Quality,
    /// Bytes of the text that it takes, without what follows.
    pub(super) len: usize,
    /// Whether the zone was written as `Z`: never by journald and dmesg, always by Go programs and kubectl.
    pub(super) is_zulu: bool,
}

/// Reads bytes from left to right.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn eat(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn eat_any(&mut self, wanted: &[u8]) -> Option<u8> {
        let byte = self.peek().filter(|byte| wanted.contains(byte))?;
        self.at += 1;
        Some(byte)
    }

    fn spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    /// A decimal number of `min` to `max` digits that no further digit follows.
    fn number(&mut self, min: usize, max: usize) -> Option<i64> {
        let n_digits = self.bytes[self.at..].iter().take(max + 1).take_while(|byte| byte.is_ascii_digit()).count();
        if n_digits < min || n_digits > max {
            return None;
        }
        self.digits(n_digits)
    }

    /// Exactly so many digits, whatever follows.
    fn digits(&mut self, n_digits: usize) -> Option<i64> {
        let digits = self.bytes.get(self.at..self.at + n_digits)?;
        let value = digits.iter().try_fold(0_i64, |value, byte| {
            let digit = i64::from(byte.checked_sub(b'0').filter(|digit| *digit < 10)?);
            value.checked_mul(10)?.checked_add(digit)
        })?;
        self.at += n_digits;
        Some(value)
    }

    /// A fraction after the point, microseconds; further digits are dropped.
    fn fraction_usec(&mut self) -> i64 {
        let (mut usec, mut scale) = (0, SEC / 10);
        while let Some(digit) = self.peek().filter(u8::is_ascii_digit) {
            usec += i64::from(digit - b'0') * scale;
            scale /= 10;
            self.at += 1;
        }
        usec
    }

    /// `06:42:30`, perhaps with a fraction; microseconds of the day.
    fn clock(&mut self) -> Option<i64> {
        let hours = self.number(1, 2).filter(|hours| *hours < 24)?;
        self.eat(b':')?;
        let minutes = self.number(2, 2).filter(|minutes| *minutes < 60)?;
        self.eat(b':')?;
        let secs = self.number(2, 2).filter(|secs| *secs <= 60)?;
        let mut usec = ((hours * 60 + minutes) * 60 + secs) * SEC;
        let has_fraction = self.peek().is_some_and(|byte| matches!(byte, b'.' | b','))
            && self.bytes.get(self.at + 1).is_some_and(u8::is_ascii_digit);
        if has_fraction {
            self.at += 1;
            usec += self.fraction_usec();
        }
        Some(usec)
    }

    /// `Z`, `+0000`, `+00:00`, `+00`; microseconds east of UTC, and whether it was `Z`.
    fn zone(&mut self) -> Option<(i64, bool)> {
        if self.eat_any(b"Zz").is_some() {
            return Some((0, true));
        }
        let start = self.at;
        let sign = if self.eat_any(b"+-")? == b'-' { -1 } else { 1 };
        let parts = |scan: &mut Self| {
            let hours = scan.digits(2).filter(|hours| *hours < 24)?;
            let _ = scan.eat(b':');
            let minutes = scan.digits(2).unwrap_or(0);
            (minutes < 60).then_some((hours * 60 + minutes) * 60 * SEC)
        };
        let Some(offset) = parts(self) else {
            self.at = start;
            return None;
        };
        Some((sign * offset, false))
    }

    fn word(&mut self) -> &'a [u8] {
        let len = self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let word = &self.bytes[self.at..self.at + len];
        self.at += len;
        word
    }

    fn month(&mut self) -> Option<i64> {
        let word = self.word();
        let index = MONTHS.iter().position(|month| month.as_bytes() == word)?;
        i64::try_from(index + 1).ok()
    }
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
/// Names of zones that mean one thing only, and their hours east of UTC.
const ZONES: [(&str, i64); 17] = [
    ("UTC", 0),
    ("GMT", 0),
    ("WET", 0),
    ("WEST", 1),
    ("CET", 1),
    ("CEST", 2),
    ("EET", 2),
    ("EEST", 3),
    ("MSK", 3),
    ("JST", 9),
    ("KST", 9),
    ("EST", -5),
    ("EDT", -4),
    ("CDT", -5),
    ("MDT", -6),
    ("PST", -8),
    ("PDT", -7),
];

/// Days since 1970 of a calendar day; `None` when there is no such day. Years 1 to 9999.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let n_days = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=9999).contains(&year) || !(1..=n_days).contains(&day) {
        return None;
    }
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let year_of_era = shifted.rem_euclid(400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(shifted.div_euclid(400) * 146_097 + day_of_era - 719_468)
}

fn wall(year: i64, month: i64, day: i64, of_day_usec: i64) -> Option<i64> {
    Some(days(year, month, day)? * DAY_SECS * SEC + of_day_usec)
}

/// The year in which `usec` lies.
fn year_of(usec: i64) -> i64 {
    let day = usec.div_euclid(DAY_SECS * SEC);
    // 400 years have 146,097 days; the guess is off by one at most.
    let guess = 1970 + day * 400 / 146_097;
    (guess - 1..=guess + 1).rev().find(|year| days(*year, 1, 1).is_some_and(|first| first <= day)).unwrap_or(guess)
}

/// A day and time without a year: the latest that is not after the moment of asking.
fn without_year(month: i64, day: i64, of_day_usec: i64, at_usec: i64) -> Option<i64> {
    let year = year_of(at_usec.saturating_add(YEAR_SLACK_USEC));
    (year - 8..=year)
        .rev()
        .find_map(|year| wall(year, month, day, of_day_usec).filter(|usec| *usec <= at_usec + YEAR_SLACK_USEC))
}

/// A stamp at the very beginning of `text`, in any of the forms that logs use.
pub(super) fn take(text: &str, at_usec: i64) -> Option<Stamp> {
    match text.as_bytes().first()? {
        b'0'..=b'9' => iso(text).or_else(|| unix(text)),
        b'A'..=b'Z' => syslog(text, at_usec).or_else(|| full(text)).or_else(|| ctime(text)),
        b'[' => bracketed(text, at_usec),
        _ => None,
    }
}

/// `2026-11-21T06:42:30.136Z`, `2026-11-21 06:42:30,136`, `2026/11/21 06:42:30`, with or without a zone.
fn iso(text: &str) -> Option<Stamp> {
    let mut scan = Scan::new(text);
    let year = scan.number(4, 4)?;
    let separator = scan.eat_any(b"-/")?;
    let month = scan.number(2, 2)?;
    scan.eat(separator)?;
    let day = scan.number(2, 2)?;
    scan.eat_any(b"T_ t")?;
    let of_day = scan.clock()?;
    // `2026-11-21 06:42:30.136 +0000 UTC m=+0.01`: Go's own form of a time.
    let before_zone = scan.at;
    scan.spaces();
    let zone = scan.zone().or_else(|| named_zone(&mut scan));
    if zone.is_none() {
        scan.at = before_zone;
    }
    let usec = wall(year, month, day, of_day)? - zone.map_or(0, |(offset, _)| offset);
    let quality = if zone.is_some() { Quality::Full } else { Quality::NoZone };
    Some(Stamp { when: When::Wall(usec), quality, len: scan.at, is_zulu: zone.is_some_and(|(_, is_zulu)| is_zulu) })
}

fn named_zone(scan: &mut Scan<'_>) -> Option<(i64, bool)> {
    let start = scan.at;
    let word = scan.word();
    let hours = ZONES.iter().find(|(name, _)| name.as_bytes() == word).map(|(_, hours)| *hours);
    if hours.is_none() {
        scan.at = start;
    }
    Some((hours? * 3600 * SEC, false))
}

/// `1763701912.123456`: `journalctl -o short-unix`.
fn unix(text: &str) -> Option<Stamp> {
    let mut scan = Scan::new(text);
    let secs = scan.number(10, 10)?;
    scan.eat(b'.')?;
    let usec = secs * SEC + scan.fraction_usec();
    (scan.peek() == Some(b' ')).then_some(Stamp {
        when: When::Wall(usec),
        quality: Quality::Full,
        len: scan.at,
        is_zulu: false,
    })
}

/// `Nov 21 06:41:48`, with or without a fraction.
fn syslog(text: &str, at_usec: i64) -> Option<Stamp> {
    let mut scan = Scan::new(text);
    let month = scan.month()?;
    scan.eat(b' ')?;
    scan.spaces();
    let day = scan.number(1, 2)?;
    scan.eat(b' ')?;
    let of_day = scan.clock()?;
    let usec = without_year(month, day, of_day, at_usec)?;
    Some(Stamp { when: When::Wall(usec), quality: Quality::NoYear, len: scan.at, is_zulu: false })
}

fn weekday(scan: &mut Scan<'_>) -> Option<()> {
    let word = scan.word();
    WEEKDAYS.iter().any(|name| name.as_bytes() == word).then_some(())?;
    scan.eat(b' ')?;
    scan.spaces();
    Some(())
}

/// `Sat 2026-11-21 06:42:07 UTC`: `journalctl -o short-full`, and systemctl.
pub(super) fn full(text: &str) -> Option<Stamp> {
    let mut scan = Scan::new(text);
    weekday(&mut scan)?;
    let inner = iso(text.get(scan.at..)?)?;
    let len = scan.at + inner.len;
    // A zone that is not known, or means several: the time is taken as UTC, the word passed over.
    let unknown = text.get(len..)?.strip_prefix(' ').filter(|_| inner.quality == Quality::NoZone).map_or(0, |rest| {
        let n_letters = rest.bytes().take_while(u8::is_ascii_uppercase).count();
        let is_word =
            (2..=5).contains(&n_letters) && matches!(rest.as_bytes().get(n_letters), None | Some(b' ' | b';'));
        if is_word { n_letters + 1 } else { 0 }
    });
    Some(Stamp { len: len + unknown, ..inner })
}

/// `Sat Nov 21 06:42:30 2026`, also with a zone before the year: ctime(3), `date`, `dmesg -T`.
fn ctime(text: &str) -> Option<Stamp> {
    let mut scan = Scan::new(text);
    weekday(&mut scan)?;
    let month = scan.month()?;
    scan.spaces();
    let day = scan.number(1, 2)?;
    scan.eat(b' ')?;
    let of_day = scan.clock()?;
    scan.eat(b' ')?;
    let zone = named_zone(&mut scan);
    scan.spaces();
    let year = scan.number(4, 4)?;
    let usec = wall(year, month, day, of_day)? - zone.map_or(0, |(offset, _)| offset);
    let quality = if zone.is_some() { Quality::Full } else { Quality::NoZone };
    Some(Stamp { when: When::Wall(usec), quality, len: scan.at, is_zulu: false })
}

/// `[  123.456789]` and its kin of dmesg: seconds since boot, ctime, iso.
fn bracketed(text: &str, at_usec: i64) -> Option<Stamp> {
    let close = text.bytes().take(48).position(|byte| byte == b']')?;
    let inner = text.get(1..close)?;
    let trimmed = inner.trim_start();
    if let Some(stamp) = boot_secs(trimmed) {
        return Some(Stamp { len: close + 1, ..stamp });
    }
    let forms = || ctime(trimmed).or_else(|| iso(trimmed)).or_else(|| syslog(trimmed, at_usec));
    let stamp = forms().or_else(|| minute(trimmed, at_usec))?;
    trimmed.get(stamp.len..)?.trim().is_empty().then_some(Stamp { len: close + 1, ..stamp })
}

/// `Nov21 06:42` of `dmesg -H`: the first line of a minute.
fn minute(text: &str, at_usec: i64) -> Option<Stamp> {
    let mut scan = Scan::new(text);
    let month = scan.month()?;
    scan.spaces();
    let day = scan.number(1, 2)?;
    scan.eat(b' ')?;
    let hours = scan.number(2, 2).filter(|hours| *hours < 24)?;
    scan.eat(b':')?;
    let minutes = scan.number(2, 2).filter(|minutes| *minutes < 60)?;
    let usec = without_year(month, day, (hours * 3600 + minutes * 60) * SEC, at_usec)?;
    Some(Stamp { when: When::Wall(usec), quality: Quality::NoYear, len: scan.at, is_zulu: false })
}

fn boot_secs(text: &str) -> Option<Stamp> {
    let mut scan = Scan::new(text);
    let secs = scan.number(1, 9)?;
    scan.eat(b'.')?;
    let usec = secs * SEC + scan.fraction_usec();
    // `[  123.456789] `, or with `-d` the time since the line before; `@` and the caller with CONFIG_PRINTK_CALLER.
    matches!(scan.peek(), None | Some(b' ' | b'@')).then_some(Stamp {
        when: When::Boot(usec),
        quality: Quality::Boot,
        len: scan.at,
        is_zulu: false,
    })
}

/// `1121 06:42:07.114982` of klog, without the letter before it.
pub(super) fn klog(text: &str, at_usec: i64) -> Option<Stamp> {
    let mut scan = Scan::new(text);
    let (month, day) = (scan.digits(2)?, scan.digits(2)?);
    scan.eat(b' ')?;
    let of_day = scan.clock()?;
    let usec = without_year(month, day, of_day, at_usec)?;
    Some(Stamp { when: When::Wall(usec), quality: Quality::NoYear, len: scan.at, is_zulu: false })
}

/// The Unix time that a whole text is, microseconds: any stamp, or a number of seconds.
pub(super) fn whole(text: &str, at_usec: i64) -> Option<(i64, Quality)> {
    let text = text.trim();
    if let Some(stamp) = take(text, at_usec)
        && let When::Wall(usec) = stamp.when
    {
        return Some((usec, stamp.quality));
    }
    let secs: f64 = text.parse().ok()?;
    // From 2001 to 2286, in seconds; what is greater is in milliseconds.
    let secs = if secs > 1e11 { secs / 1e3 } else { secs };
    if !(1e9..1e10).contains(&secs) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 1e16, checked above")]
    let usec = (secs * 1e6) as i64;
    Some((usec, Quality::Full))
}
