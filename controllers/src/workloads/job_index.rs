//! Completion indexes: sets of numbers, written as `0,2-5`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The index a pod works on.
pub fn of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// What cannot be read counts as nothing; ranges are bounded by what a Job may have.
pub fn parse(text: &str) -> BTreeSet<i32> {
    const MOST: i32 = 1_000_000;
    let mut set = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<i32>(), last.trim().parse::<i32>())
            && first >= 0
            && last < MOST
        {
            set.extend(first..=last);
        }
    }
    set
}

pub fn show(set: &BTreeSet<i32>) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for &number in set {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let part = |&(first, last): &(i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    ranges.iter().map(part).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_as_ranges() {
        for (numbers, text) in
            [(&[][..], ""), (&[3], "3"), (&[0, 1], "0,1"), (&[0, 2, 3, 4, 5, 9], "0,2-5,9")]
        {
            let set: BTreeSet<i32> = numbers.iter().copied().collect();
            assert_eq!(show(&set), text);
            assert_eq!(parse(text), set);
        }
        assert!(parse("x,-4,7-").is_empty());
    }
}
