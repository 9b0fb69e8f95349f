//! Cron schedules: five fields, names of months and days, and shorthands such as `@daily`.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// Which minutes a schedule means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether day or weekday is restricted; if both are, either is enough.
    any_day: bool,
    any_weekday: bool,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// A schedule that has no minute in this many days has none at all (29 February comes every 8 years at the worst).
const HORIZON_DAYS: i32 = 366 * 9;

impl Schedule {
    /// `None` where the text is no schedule.
    pub fn parse(text: &str) -> Option<Schedule> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            text => text,
        };
        let fields: Vec<_> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else { return None };
        // Sunday may be 7.
        let mut on = field(weekdays, 0, 7, &WEEKDAYS)?;
        if on & (1 << 7) != 0 {
            on = (on | 1) & !(1 << 7);
        }
        Some(Schedule {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            weekdays: on,
            any_day: days.starts_with(['*', '?']),
            any_weekday: weekdays.starts_with(['*', '?']),
        })
    }

    fn meets_day(&self, time: DateTime) -> bool {
        let day = self.days & (1 << time.day()) != 0;
        let weekday = self.weekdays & (1 << time.weekday().to_sunday_zero_offset()) != 0;
        let right = match (self.any_day, self.any_weekday) {
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        right && self.months & (1 << time.month()) != 0
    }

    /// The first minute after `after`, in the time zone; a minute that a clock change skips is skipped.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = zone.to_datetime(after);
        let mut date = start.date();
        for _ in 0..HORIZON_DAYS {
            if self.meets_day(date.to_datetime(jiff::civil::Time::midnight())) {
                for hour in (0..24i8).filter(|hour| self.hours & (1 << hour) != 0) {
                    for minute in (0..60i8).filter(|minute| self.minutes & (1 << minute) != 0) {
                        let local = date.at(hour, minute, 0, 0);
                        let Ok(time) = zone.to_ambiguous_timestamp(local).compatible() else { continue };
                        if time > after && zone.to_datetime(time) == local {
                            return Some(time);
                        }
                    }
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }
}

/// One field as a set of bits; `None` where it makes no sense.
fn field(text: &str, lowest: u32, highest: u32, names: &[&str]) -> Option<u64> {
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<u32>().ok().filter(|step| *step > 0)?),
            None => (part, 1),
        };
        let number = |word: &str| -> Option<u32> {
            let lower = word.to_lowercase();
            let named = names.iter().position(|name| *name == lower);
            let base = if names.len() == 12 { 1 } else { 0 };
            named.map(|at| at as u32 + base).or_else(|| word.parse().ok())
        };
        let (first, last) = match range {
            "*" | "?" => (lowest, if names.len() == 7 { 6 } else { highest }),
            range => match range.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None if part.contains('/') => (number(range)?, highest),
                None => (number(range)?, number(range)?),
            },
        };
        if first < lowest || last > highest || first > last {
            return None;
        }
        for value in (first..=last).step_by(step as usize) {
            bits |= 1 << value;
        }
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str) -> Option<String> {
        let after: Timestamp = after.parse().expect("a time");
        Schedule::parse(schedule)
            .expect("a schedule")
            .next(after, &TimeZone::UTC)
            .map(|time| time.to_string())
    }

    #[test]
    fn the_next_minute_is_found() {
        for (schedule, after, expected) in [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:46:10Z", "2026-01-01T01:00:00Z"),
            ("30 2 * * *", "2026-01-01T02:30:00Z", "2026-01-02T02:30:00Z"),
            ("0 0 29 2 *", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 12 * * mon-fri", "2026-01-02T13:00:00Z", "2026-01-05T12:00:00Z"),
            ("0 0 13 * 5", "2026-02-06T00:00:00Z", "2026-02-13T00:00:00Z"),
            ("0 0 1 jan,jul ?", "2026-02-01T00:00:00Z", "2026-07-01T00:00:00Z"),
            ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
        ] {
            assert_eq!(next(schedule, after).as_deref(), Some(expected), "{schedule} after {after}");
        }
        assert_eq!(next("0 0 31 2 *", "2026-01-01T00:00:00Z"), None);
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in ["", "* * * *", "60 * * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *", "x * * * *"] {
            assert_eq!(Schedule::parse(text), None, "{text}");
        }
    }
}
