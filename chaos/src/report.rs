//! The split-brain report: who led, who was cut off from whom, and what each side told its clients.
//!
//! It shows what a run of partitions looked like, for people; [`crate::check`] judges it. Counts under a partition are of
//! operations that began and ended while it was in force, and of those that never ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use crate::history::{History, Operation, Outcome, Revision, ServerId};
use crate::observe::{Fact, Fault, Observations};

/// Longest list of acknowledgements that should not be.
const SHOWN: usize = 10;

/// The report on one run.
pub fn split_brain(history: &History, observations: &Observations) -> String {
    let mut report = String::new();
    let terms = terms(observations);
    // Writing to a string does not fail.
    let _ = write(&mut report, history, observations, &terms);
    report
}

fn write(
    out: &mut String,
    history: &History,
    observations: &Observations,
    terms: &BTreeMap<u64, Vec<Reign>>,
) -> std::fmt::Result {
    writeln!(out, "timeline")?;
    for (at, line) in timeline(observations, terms) {
        writeln!(out, "  {:>9}  {line}", seconds(at))?;
    }
    writeln!(out, "leaders")?;
    for (term, reigns) in terms {
        let names: Vec<String> = reigns.iter().map(Reign::to_string).collect();
        let doubt = if distinct(reigns) > 1 { "   ! two leaders in one term" } else { "" };
        writeln!(out, "  term {term:<4} {}{doubt}", names.join(", "))?;
    }
    for fault in observations.faults.iter().filter(|fault| !fault.sides.is_empty()) {
        partition(out, history, observations, fault)?;
    }
    writeln!(out, "servers")?;
    let mut servers: BTreeSet<Option<ServerId>> = (0..observations.servers).map(Some).collect();
    servers.extend(history.operations.iter().map(|operation| operation.server));
    for server in servers {
        let told = Told::of(history.operations.iter().filter(|operation| operation.server == server));
        if let Some(server) = server {
            writeln!(out, "  server {server}: {told}")?;
        } else {
            writeln!(out, "  any server: {told}")?;
        }
    }
    Ok(())
}

/// A server's time as the leader of a term.
struct Reign {
    server: ServerId,
    from: Duration,
    until: Option<Duration>,
}

impl std::fmt::Display for Reign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let until = self.until.map_or("the end".to_owned(), seconds);
        write!(f, "server {} from {} to {until}", self.server, seconds(self.from))
    }
}

fn distinct(reigns: &[Reign]) -> usize {
    reigns.iter().map(|reign| reign.server).collect::<BTreeSet<_>>().len()
}

fn terms(observations: &Observations) -> BTreeMap<u64, Vec<Reign>> {
    let mut terms: BTreeMap<u64, Vec<Reign>> = BTreeMap::new();
    let mut lives: BTreeMap<ServerId, usize> = BTreeMap::new();
    for seen in &observations.facts {
        let reborn = lives.insert(seen.server, seen.life).is_some_and(|life| life != seen.life);
        let leads = match seen.fact {
            Fact::Leads { term } => Some(term),
            _ => None,
        };
        // It ends by following another, by leading another term, or by a restart.
        if reborn || leads.is_some() || matches!(seen.fact, Fact::Follows { .. }) {
            for (term, reigns) in &mut terms {
                for reign in reigns.iter_mut().filter(|reign| reign.server == seen.server) {
                    if reborn || leads != Some(*term) {
                        reign.until.get_or_insert(seen.at);
                    }
                }
            }
        }
        if let Some(term) = leads {
            let reigns = terms.entry(term).or_default();
            if !reigns.iter().any(|reign| reign.server == seen.server && reign.until.is_none()) {
                reigns.push(Reign { server: seen.server, from: seen.at, until: None });
            }
        }
    }
    terms
}

fn timeline(observations: &Observations, terms: &BTreeMap<u64, Vec<Reign>>) -> Vec<(Duration, String)> {
    let mut lines = Vec::new();
    for fault in &observations.faults {
        let sides: Vec<String> = fault.sides.iter().map(named).collect();
        let sides = if sides.is_empty() { String::new() } else { format!(": {}", sides.join(" | ")) };
        lines.push((fault.at, format!("{}{sides}", fault.what)));
        if let Some(until) = fault.until {
            lines.push((until, format!("over: {}", fault.what)));
        }
    }
    for (term, reigns) in terms {
        for reign in reigns {
            lines.push((reign.from, format!("server {} leads term {term}", reign.server)));
            if let Some(until) = reign.until {
                lines.push((until, format!("server {} no longer leads term {term}", reign.server)));
            }
        }
    }
    if let Some(healed) = observations.healed {
        lines.push((healed, "all is healed".to_owned()));
    }
    lines.sort();
    lines
}

fn partition(
    out: &mut String,
    history: &History,
    observations: &Observations,
    fault: &Fault,
) -> std::fmt::Result {
    let end = fault.until.map_or("the end".to_owned(), seconds);
    writeln!(out, "{}, {} to {end}", fault.what, seconds(fault.at))?;
    let quorum = observations.members().len() / 2 + 1;
    let until = fault.until.unwrap_or(Duration::MAX);
    let within = |operation: &&Operation| {
        operation.invoked >= fault.at
            && operation.invoked <= until
            && operation.returned.is_none_or(|returned| returned <= until)
    };
    for side in &fault.sides {
        let members = side.intersection(&observations.members()).count();
        let strength = if members >= quorum { "has a quorum" } else { "has no quorum" };
        // A bridge stands on both sides; what it tells counts for the larger one.
        let own: BTreeSet<ServerId> = side
            .iter()
            .copied()
            .filter(|server| {
                let largest =
                    fault.sides.iter().filter(|side| side.contains(server)).map(BTreeSet::len).max();
                largest == Some(side.len())
            })
            .collect();
        let on_side = |operation: &&Operation| operation.server.is_some_and(|server| own.contains(&server));
        let operations: Vec<&Operation> = history.operations.iter().filter(within).filter(on_side).collect();
        writeln!(out, "  {} ({strength}): {}", named(side), Told::of(operations.iter().copied()))?;
        let acknowledged: Vec<&&Operation> =
            operations.iter().filter(|operation| operation.is_acknowledged_write()).collect();
        if let (Some(first), Some(last)) = (acknowledged.first(), acknowledged.last()) {
            let told = |operation: &Operation| operation.revision().unwrap_or_default();
            let revisions: Vec<Revision> = acknowledged.iter().map(|operation| told(operation)).collect();
            writeln!(
                out,
                "    acknowledged from {} to {}, revisions {} to {}",
                seconds(first.returned.unwrap_or_default()),
                seconds(last.returned.unwrap_or_default()),
                revisions.iter().min().copied().unwrap_or_default(),
                revisions.iter().max().copied().unwrap_or_default()
            )?;
        }
        if members < quorum {
            let answered =
                operations.iter().filter(|operation| operation.is_acknowledged_write() || fresh(operation));
            let answered: Vec<_> = answered.collect();
            for operation in answered.iter().take(SHOWN) {
                writeln!(out, "    ! answered without a quorum: {operation}")?;
            }
            if answered.is_empty() {
                writeln!(out, "    it acknowledged no write and answered no linearizable read")?;
            } else if answered.len() > SHOWN {
                writeln!(out, "    ! and {} more", answered.len() - SHOWN)?;
            }
        }
    }
    Ok(())
}

fn fresh(operation: &Operation) -> bool {
    operation.is_linearizable_read() && matches!(operation.outcome, Outcome::Found { .. })
}

/// What clients were told.
#[derive(Default)]
struct Told {
    writes: usize,
    reads: usize,
    refused: usize,
    unknown: usize,
}

impl Told {
    fn of<'a>(operations: impl Iterator<Item = &'a Operation>) -> Told {
        let mut told = Told::default();
        for operation in operations {
            match &operation.outcome {
                Outcome::Unknown(_) => told.unknown += 1,
                Outcome::Refused(_) => told.refused += 1,
                _ if operation.is_acknowledged_write() => told.writes += 1,
                Outcome::Found { .. } if operation.is_linearizable_read() => told.reads += 1,
                _ => {}
            }
        }
        told
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Told { writes, reads, refused, unknown } = self;
        write!(f, "{writes} writes acknowledged, {reads} fresh reads, {refused} refused, {unknown} unknown")
    }
}

fn named(servers: &BTreeSet<ServerId>) -> String {
    let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
    let word = if names.len() == 1 { "server" } else { "servers" };
    format!("{word} {}", names.join(" "))
}

fn seconds(at: Duration) -> String {
    format!("{:.3} s", at.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Action, Key};
    use crate::observe::Observation;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn put(server: ServerId, at: u64, value: u64, outcome: Outcome) -> Operation {
        let action = Action::put(&Key::from("a"), value);
        let returned = (!matches!(outcome, Outcome::Unknown(_))).then(|| ms(at + 5));
        Operation { client: 0, server: Some(server), action, invoked: ms(at), returned, outcome }
    }

    fn cut() -> Observations {
        let saw = |at, server, fact| Observation { at: ms(at), server, life: 1, fact };
        Observations {
            servers: 3,
            facts: vec![
                saw(300, 0, Fact::Leads { term: 1 }),
                saw(1800, 1, Fact::Leads { term: 2 }),
                saw(1900, 0, Fact::Follows { term: 1 }),
            ],
            faults: vec![Fault {
                at: ms(1000),
                until: Some(ms(4000)),
                what: "the leader is cut off from its peers".into(),
                sides: vec![BTreeSet::from([0]), BTreeSet::from([1, 2])],
            }],
            healed: Some(ms(4000)),
            ..Observations::default()
        }
    }

    fn operations() -> Vec<Operation> {
        vec![
            put(0, 500, 1, Outcome::Done { revision: 2 }),
            put(0, 1100, 2, Outcome::Refused("no leader".into())),
            put(0, 1200, 3, Outcome::Unknown("no answer".into())),
            put(1, 2000, 4, Outcome::Done { revision: 3 }),
            put(2, 3000, 5, Outcome::Done { revision: 4 }),
            put(0, 4500, 6, Outcome::Done { revision: 5 }),
        ]
    }

    #[test]
    fn it_tells_who_led_and_what_each_side_told() {
        let history = History { operations: operations(), ..History::default() };
        let expected = "\
timeline
    0.300 s  server 0 leads term 1
    1.000 s  the leader is cut off from its peers: server 0 | servers 1 2
    1.800 s  server 1 leads term 2
    1.900 s  server 0 no longer leads term 1
    4.000 s  all is healed
    4.000 s  over: the leader is cut off from its peers
leaders
  term 1    server 0 from 0.300 s to 1.900 s
  term 2    server 1 from 1.800 s to the end
the leader is cut off from its peers, 1.000 s to 4.000 s
  server 0 (has no quorum): 0 writes acknowledged, 0 fresh reads, 1 refused, 1 unknown
    it acknowledged no write and answered no linearizable read
  servers 1 2 (has a quorum): 2 writes acknowledged, 0 fresh reads, 0 refused, 0 unknown
    acknowledged from 2.005 s to 3.005 s, revisions 3 to 4
servers
  server 0: 2 writes acknowledged, 0 fresh reads, 1 refused, 1 unknown
  server 1: 1 writes acknowledged, 0 fresh reads, 0 refused, 0 unknown
  server 2: 1 writes acknowledged, 0 fresh reads, 0 refused, 0 unknown
";
        assert_eq!(split_brain(&history, &cut()), expected);
    }

    #[test]
    fn it_points_at_what_must_not_be() {
        let mut operations = operations();
        operations.push(put(0, 2000, 7, Outcome::Done { revision: 9 }));
        let mut observations = cut();
        observations.facts.push(Observation {
            at: ms(2000),
            server: 2,
            life: 1,
            fact: Fact::Leads { term: 2 },
        });
        let report = split_brain(&History { operations, ..History::default() }, &observations);
        assert!(report.contains("! answered without a quorum: client 0 on server 0, 2.000s"), "{report}");
        assert!(report.contains("! two leaders in one term"), "{report}");
    }
}
