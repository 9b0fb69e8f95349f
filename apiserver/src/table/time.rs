//! How long ago, in as few letters as people need.

use jiff::Timestamp;
use serde_json::Value;

/// `59s`, `3m20s`, `5h`, `2d3h`, `400d`, `3y`: two units at most, fewer the longer it is.
pub(crate) fn human(seconds: i64) -> String {
    let pair = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        ..-1 => "<invalid>".into(),
        -1..0 => "0s".into(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => pair(hours / 24, "d", hours % 24, "h"),
        _ if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        _ if hours < 24 * 365 * 8 => pair(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        _ => format!("{}y", hours / 24 / 365),
    }
}

/// Time since a stamp in a document; `<unknown>` where there is none.
pub(crate) fn since(stamp: &Value, now: Timestamp) -> String {
    match parse(stamp) {
        Some(then) => human(seconds_between(then, now)),
        None => "<unknown>".into(),
    }
}

pub(crate) fn parse(stamp: &Value) -> Option<Timestamp> {
    stamp.as_str()?.parse().ok()
}

/// Whole seconds, cut off towards zero.
pub(crate) fn seconds_between(then: Timestamp, now: Timestamp) -> i64 {
    (now.as_millisecond() - then.as_millisecond()) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_cut_as_kubectl_cuts_them() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (5 * 3600 + 120, "5h2m"),
            (8 * 3600 + 120, "8h"),
            (48 * 3600, "2d"),
            (51 * 3600, "2d3h"),
            (8 * 86_400, "8d"),
            (729 * 86_400, "729d"),
            (730 * 86_400, "2y"),
            (800 * 86_400, "2y70d"),
            (3000 * 86_400, "8y"),
        ] {
            assert_eq!(human(seconds), text, "{seconds} s");
        }
    }
}
