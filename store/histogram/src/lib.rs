//! What openraft counts its batches with, in 520 bytes a histogram.
//!
//! The registry's crate of this name builds 26 MB of tables, for widths that nobody uses, at a server's first entry: as
//! much as all the rest of an idle server. This one has what openraft calls, and a bucket for each power of two.

use std::fmt;
use std::marker::PhantomData;

/// A bucket for 0, and one for each number of bits.
const BUCKETS: usize = u64::BITS as usize + 1;

/// Counts values by their number of bits. The parameter, data of a slot there, has no use here.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    buckets: Box<[u64; BUCKETS]>,
    data: PhantomData<T>,
}

impl<T> Histogram<T> {
    pub fn new() -> Histogram<T> {
        Histogram { buckets: Box::new([0; BUCKETS]), data: PhantomData }
    }

    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    pub fn record_n(&mut self, value: u64, times: u64) {
        self.buckets[(u64::BITS - value.leading_zeros()) as usize] += times;
    }

    pub fn total(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The largest value that the bucket holds in which this part of all values is reached; 0 without values.
    pub fn percentile(&self, part: f64) -> u64 {
        let rank = (self.total() as f64 * part).ceil() as u64;
        let mut below = 0;
        let reached = |count: &u64| {
            below += count;
            below >= rank
        };
        self.buckets.iter().position(reached).map_or(u64::MAX, largest)
    }

    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

/// The largest value of a bucket.
fn largest(bucket: usize) -> u64 {
    u64::MAX.checked_shr(u64::BITS - bucket as u32).unwrap_or(0)
}

impl<T> Default for Histogram<T> {
    fn default() -> Histogram<T> {
        Histogram::new()
    }
}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.percentile_stats().fmt(f)
    }
}

/// How many values there are, and where they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats { samples, p0_1, p1, p5, p10, p50, p90, p99, p99_9 } = self;
        write!(f, "{samples} values, 0.1%: {p0_1}, 1%: {p1}, 5%: {p5}, 10%: {p10}, ")?;
        write!(f, "50%: {p50}, 90%: {p90}, 99%: {p99}, 99.9%: {p99_9}")
    }
}

/// Histograms under each other, one line for each bucket that holds something.
#[derive(Default)]
pub struct AsciiChart(Vec<(String, Histogram)>);

impl AsciiChart {
    pub fn new() -> AsciiChart {
        AsciiChart::default()
    }

    #[must_use]
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> AsciiChart {
        self.0.push((name.into(), histogram));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.0 {
            writeln!(f, "{name}:")?;
            for (bucket, count) in histogram.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
                writeln!(f, "{:>21} {count}", format!("≤ {}", largest(bucket)))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_histogram_is_all_nothing() {
        let histogram = Histogram::<()>::new();
        assert_eq!(histogram.total(), 0);
        assert_eq!(histogram.percentile(0.99), 0);
    }

    #[test]
    fn values_are_found_within_their_power_of_two() {
        let mut histogram = Histogram::<()>::new();
        (1..=1000).for_each(|value| histogram.record(value));
        histogram.record(u64::MAX);
        assert_eq!(histogram.total(), 1001);
        assert_eq!(histogram.percentile(0.5), 511);
        assert_eq!(histogram.percentile(0.9), 1023);
        assert_eq!(histogram.percentile(1.0), u64::MAX);
    }

    #[test]
    fn a_chart_names_what_it_shows() {
        let mut histogram = Histogram::new();
        histogram.record(0);
        histogram.record(5);
        let chart = AsciiChart::new().add("batches", histogram).to_string();
        assert_eq!(chart, "batches:\n                  ≤ 0 1\n                  ≤ 7 1\n");
    }
}
