//! Everything that can go wrong, by name. A seed chooses which, when, for how long, and for whom; two at once at most.
//!
//! A new kind is a variant of [`Kind`], its name and its weight in [`Kind::ALL`], and an arm of [`Storm::begin`]; what has to
//! be undone goes into [`Undo`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kontiki_store::simulation::Faults;
use parking_lot::Mutex;
use rand::Rng;
use rand::seq::SliceRandom;

use super::net::Weather;
use super::world::{Leaving, World};
use crate::observe::Fault;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// kill -9; the disk keeps what was written.
    Kill,
    /// The power goes: what was not synced is lost, torn or kept.
    PowerCut,
    /// The power goes in the middle of an operation on the disk.
    PowerCutInOperation,
    /// The power goes everywhere at once.
    PowerCutOfAll,
    /// The process is killed, and then the power goes before it is back.
    KillThenPowerCut,
    KillOfMajority,
    Partition,
    LeaderAlone,
    /// Nothing gets from one side to the other, everything back.
    OneWay,
    /// Two sides that only one server reaches both of.
    Bridge,
    Flapping,
    Delay,
    Loss,
    Doubling,
    Resets,
    /// SIGSTOP, then SIGCONT.
    Stop,
    ClockRate,
    ClockJump,
    SlowDisk,
    StalledDisk,
    SyncError,
    WriteError,
    FullDisk,
    /// The disk is lost; its server joins as a new member.
    Replacement,
    /// A member leaves while it runs, and joins again with an empty disk.
    MemberChange,
    Checkpoint,
    /// A follower is cut off until the others have purged what it lacks.
    Lag,
    Transfer,
    /// One after the other is stopped in good order and comes back.
    RollingRestart,
    WatchersMove,
}

impl Kind {
    /// How often each is chosen, relative to the others.
    pub const ALL: [(Kind, u32); 30] = [
        (Kind::Kill, 6),
        (Kind::PowerCut, 6),
        (Kind::PowerCutInOperation, 8),
        (Kind::PowerCutOfAll, 5),
        (Kind::KillThenPowerCut, 4),
        (Kind::KillOfMajority, 3),
        (Kind::Partition, 6),
        (Kind::LeaderAlone, 6),
        (Kind::OneWay, 5),
        (Kind::Bridge, 4),
        (Kind::Flapping, 3),
        (Kind::Delay, 3),
        (Kind::Loss, 3),
        (Kind::Doubling, 3),
        (Kind::Resets, 3),
        (Kind::Stop, 5),
        (Kind::ClockRate, 3),
        (Kind::ClockJump, 2),
        (Kind::SlowDisk, 3),
        (Kind::StalledDisk, 3),
        (Kind::SyncError, 3),
        (Kind::WriteError, 2),
        (Kind::FullDisk, 2),
        (Kind::Replacement, 3),
        (Kind::MemberChange, 3),
        (Kind::Checkpoint, 8),
        (Kind::Lag, 4),
        (Kind::Transfer, 4),
        (Kind::RollingRestart, 2),
        (Kind::WatchersMove, 3),
    ];
}

enum Undo {
    Nothing,
    Links(Vec<(usize, usize)>),
    /// Between these hosts, on for a while and off for a while.
    Flap {
        links: Vec<(usize, usize)>,
        cut: bool,
        turn: Duration,
    },
    Weather,
    Continue(usize),
    Rate(usize),
    Disk(usize),
    /// Until everybody votes again.
    Member,
    Reset {
        pair: (usize, usize),
        turn: Duration,
    },
    Rolling {
        next: usize,
        turn: Duration,
    },
}

struct Active {
    kind: Kind,
    ends: Duration,
    undo: Undo,
    ticket: usize,
}

/// The faults of a run.
#[derive(Default)]
pub struct Storm {
    active: Vec<Active>,
    next: Duration,
    pub counts: BTreeMap<Kind, u64>,
    /// How much faster than the world's a server's clock ran, in parts of a thousand.
    pub drift_permille: u32,
}

/// A split of the servers into two sides.
fn split(world: &mut World, first: &[usize], size: usize) -> (Vec<usize>, Vec<usize>) {
    let mut rest: Vec<usize> = (0..world.sites.len()).filter(|number| !first.contains(number)).collect();
    rest.shuffle(&mut world.random);
    let mut one = first.to_vec();
    while one.len() < size {
        one.extend(rest.pop());
    }
    (one, rest)
}

fn both_ways(one: &[usize], other: &[usize]) -> Vec<(usize, usize)> {
    one.iter().flat_map(|a| other.iter().flat_map(move |b| [(*a, *b), (*b, *a)])).collect()
}

fn cut(world: &World, links: &[(usize, usize)]) {
    links.iter().for_each(|(from, to)| world.net.cut(*from, *to));
}

fn mend(world: &World, links: &[(usize, usize)]) {
    links.iter().for_each(|(from, to)| world.net.mend(*from, *to));
}

impl Storm {
    /// Looks whether a fault is over, or the next one due.
    pub fn turn(&mut self, world: &mut World) {
        let now = world.now;
        let mut position = 0;
        while position < self.active.len() {
            if self.active[position].ends <= now && self.is_over(position, world) {
                let active = self.active.remove(position);
                self.undo(active, world);
            } else {
                self.go_on(position, world);
                position += 1;
            }
        }
        if now < self.next || self.active.len() >= 2 {
            return;
        }
        let lull = world.plan.lull.as_millis() as u64;
        self.next = now + Duration::from_millis(world.random.random_range(lull / 4..lull * 2));
        let total: u32 = Kind::ALL.iter().map(|(_, weight)| weight).sum();
        let mut at = world.random.random_range(0..total);
        for (kind, weight) in Kind::ALL {
            if at < weight {
                self.attempt(kind, world);
                return;
            }
            at -= weight;
        }
    }

    fn is_over(&self, position: usize, world: &mut World) -> bool {
        match self.active[position].undo {
            // Another member must not be lost before this one is made good.
            Undo::Member => world.all_vote(),
            Undo::Rolling { next, .. } => next >= world.sites.len(),
            _ => true,
        }
    }

    fn undo(&mut self, active: Active, world: &mut World) {
        match active.undo {
            Undo::Nothing | Undo::Member | Undo::Reset { .. } | Undo::Rolling { .. } => {}
            Undo::Links(links) | Undo::Flap { links, .. } => mend(world, &links),
            Undo::Weather => world.net.clear_weather(),
            Undo::Continue(number) => world.sites[number].host.stopped = false,
            Undo::Rate(number) => world.sites[number].host.rate_permille = 1000,
            Undo::Disk(number) => world.sites[number].drive.mend(),
        }
        world.record.healed(active.ticket);
    }

    fn go_on(&mut self, position: usize, world: &mut World) {
        let now = world.now;
        let Active { undo, .. } = &mut self.active[position];
        match undo {
            Undo::Flap { links, cut: is_cut, turn } if *turn <= now => {
                *turn = now + Duration::from_millis(world.random.random_range(50..700));
                *is_cut = !*is_cut;
                if *is_cut { cut(world, links) } else { mend(world, links) }
            }
            Undo::Reset { pair, turn } if *turn <= now => {
                *turn = now + Duration::from_millis(world.random.random_range(20..400));
                world.net.reset(pair.0, pair.1);
            }
            Undo::Rolling { next, turn } if *turn <= now && *next < world.sites.len() => {
                let number = *next;
                *next += 1;
                *turn = now + Duration::from_millis(world.random.random_range(800..2500));
                world.shut_down(number);
            }
            _ => {}
        }
    }

    /// Ends everything that is still wrong.
    pub fn heal(&mut self, world: &mut World) {
        for active in std::mem::take(&mut self.active) {
            self.undo(active, world);
        }
        world.net.mend_all();
        for site in &mut world.sites {
            site.host.stopped = false;
            site.host.rate_permille = 1000;
            site.drive.mend();
            if let Some(starts) = &mut site.starts {
                *starts = (*starts).min(world.now + Duration::from_millis(200));
            }
        }
    }

    fn touched(&self) -> bool {
        self.active
            .iter()
            .any(|active| matches!(active.undo, Undo::Member | Undo::Disk(_) | Undo::Rolling { .. }))
    }

    fn attempt(&mut self, kind: Kind, world: &mut World) {
        let servers = world.sites.len();
        let up: Vec<usize> = (0..servers).filter(|number| world.is_up(*number)).collect();
        if up.is_empty() || self.active.iter().any(|active| active.kind == kind) {
            return;
        }
        let one = up[world.random.random_range(0..up.len())];
        let leader = world.leader();
        // Half of the time it is the leader who is hurt.
        let victim = leader.filter(|_| world.random.random_bool(0.5)).unwrap_or(one);
        let lasts = Duration::from_millis(match world.random.random_range(0..4) {
            0 => world.random.random_range(50..400),
            1 | 2 => world.random.random_range(400..2500),
            _ => world.random.random_range(2500..7000),
        });
        let alone = servers == 1;
        let needs_others = matches!(
            kind,
            Kind::Partition
                | Kind::LeaderAlone
                | Kind::OneWay
                | Kind::Bridge
                | Kind::Flapping
                | Kind::Delay
                | Kind::Loss
                | Kind::Doubling
                | Kind::Resets
                | Kind::KillOfMajority
                | Kind::Replacement
                | Kind::MemberChange
                | Kind::Lag
                | Kind::Transfer
                | Kind::WatchersMove
        );
        let exclusive = matches!(kind, Kind::Replacement | Kind::MemberChange | Kind::RollingRestart);
        if (needs_others && alone) || (exclusive && (self.touched() || !world.all_vote())) {
            return;
        }
        // While a member is being replaced, no other server's disk is put at risk for good; all other faults go on.
        let Some((what, sides, undo, ends)) = self.begin(kind, victim, lasts, world) else { return };
        let fault = Fault { at: world.record.now(), until: None, what, sides };
        let ticket = world.record.hurt(fault);
        *self.counts.entry(kind).or_default() += 1;
        self.active.push(Active { kind, ends: world.now + ends, undo, ticket });
    }

    #[allow(clippy::type_complexity, reason = "what a fault is, once")]
    fn begin(
        &mut self,
        kind: Kind,
        victim: usize,
        lasts: Duration,
        world: &mut World,
    ) -> Option<(String, Vec<BTreeSet<usize>>, Undo, Duration)> {
        let servers = world.sites.len();
        let majority = servers / 2 + 1;
        let moment = Duration::from_millis(50);
        let name = |world: &World, number: usize| world.sites[number].server;
        let short = Duration::from_millis(world.random.random_range(20..1500));
        let done = |what: String, undo: Undo, ends: Duration| Some((what, Vec::new(), undo, ends));
        match kind {
            Kind::Kill => {
                world.end(victim, false, short);
                done(format!("server {} is killed", name(world, victim)), Undo::Nothing, short)
            }
            Kind::PowerCut => {
                world.end(victim, true, short);
                done(format!("server {} loses its power", name(world, victim)), Undo::Nothing, short)
            }
            Kind::PowerCutInOperation => {
                world.sites[victim].drive.light_fuse(world.random.random_range(0..60));
                let what = format!("server {} loses its power in an operation", name(world, victim));
                done(what, Undo::Nothing, lasts)
            }
            Kind::PowerCutOfAll => {
                for number in 0..servers {
                    let back = Duration::from_millis(world.random.random_range(20..800));
                    world.end(number, true, back);
                }
                done("all servers lose their power".to_owned(), Undo::Nothing, moment)
            }
            Kind::KillThenPowerCut => {
                world.end(victim, false, moment);
                // It reads back what it had written, works on it, and then the power goes.
                let fuse = world.random.random_range(0..40);
                world.sites[victim].drive.light_fuse(fuse);
                let what =
                    format!("server {} is killed, and loses its power when it is back", name(world, victim));
                done(what, Undo::Nothing, lasts)
            }
            Kind::KillOfMajority => {
                let (dead, _) = split(world, &[victim], majority);
                for number in dead {
                    let power = world.random.random_bool(0.5);
                    let back = lasts.min(Duration::from_secs(3));
                    world.end(number, power, back);
                }
                done("a majority of the servers is killed".to_owned(), Undo::Nothing, lasts)
            }
            Kind::Partition | Kind::LeaderAlone | Kind::OneWay => {
                let size = match kind {
                    Kind::LeaderAlone => 1,
                    _ => world.random.random_range(1..servers.max(2)),
                };
                let (one, other) = split(world, &[victim], size);
                let links = match kind {
                    Kind::OneWay if world.random.random_bool(0.5) => {
                        one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))).collect()
                    }
                    Kind::OneWay => one.iter().flat_map(|a| other.iter().map(move |b| (*b, *a))).collect(),
                    _ => both_ways(&one, &other),
                };
                cut(world, &links);
                let names = |side: &[usize]| side.iter().map(|number| name(world, *number)).collect();
                let sides: Vec<BTreeSet<usize>> = vec![names(&one), names(&other)];
                let what = format!("{kind:?} of {:?} and {:?}", sides[0], sides[1]);
                let sides = if kind == Kind::OneWay { Vec::new() } else { sides };
                Some((what, sides, Undo::Links(links), lasts))
            }
            Kind::Bridge => {
                if servers < 3 {
                    return None;
                }
                let bridge = world.random.random_range(0..servers);
                let mut rest: Vec<usize> = (0..servers).filter(|number| *number != bridge).collect();
                rest.shuffle(&mut world.random);
                let (one, other) = rest.split_at(rest.len() / 2);
                let links = both_ways(one, other);
                cut(world, &links);
                let what = format!("only server {} reaches all others", name(world, bridge));
                done(what, Undo::Links(links), lasts)
            }
            Kind::Flapping => {
                let (one, other) = split(world, &[victim], 1);
                let links = both_ways(&one, &other);
                let what = format!("the links of server {} flap", name(world, victim));
                done(what, Undo::Flap { links, cut: false, turn: world.now }, lasts)
            }
            Kind::Delay | Kind::Loss | Kind::Doubling => {
                let calm = Weather::default();
                let slow = world.random.random_range(5..250);
                let weather = match kind {
                    Kind::Delay => Weather {
                        least: Duration::from_millis(slow / 4),
                        spread: Duration::from_millis(slow),
                        ..calm
                    },
                    Kind::Loss => Weather { lost_permille: world.random.random_range(20..400), ..calm },
                    _ => Weather { doubled_permille: 500, lost_permille: 50, ..calm },
                };
                let everywhere = world.random.random_bool(0.4);
                for from in 0..servers {
                    for to in (0..servers).filter(|to| *to != from) {
                        if everywhere || from == victim || to == victim {
                            world.net.set_weather(from, to, Some(weather));
                        }
                    }
                }
                done(format!("{kind:?} on the network: {weather:?}"), Undo::Weather, lasts)
            }
            Kind::Resets => {
                let (_, others) = split(world, &[victim], 1);
                let pair = (victim, others[0]);
                let what = format!("connections of servers {pair:?} are reset");
                done(what, Undo::Reset { pair, turn: world.now }, lasts)
            }
            Kind::Stop => {
                world.sites[victim].host.stopped = true;
                done(format!("server {} is stopped", name(world, victim)), Undo::Continue(victim), lasts)
            }
            Kind::ClockRate => {
                let rate = [400, 700, 900, 1100, 1400, 2500][world.random.random_range(0..6)];
                world.sites[victim].host.rate_permille = rate;
                self.drift_permille = self.drift_permille.max(rate.saturating_sub(1000));
                let what = format!("the clock of server {} runs at {rate}/1000", name(world, victim));
                done(what, Undo::Rate(victim), lasts)
            }
            Kind::ClockJump => {
                let by = Duration::from_millis(world.random.random_range(100..4000));
                world.sites[victim].host.jump(by);
                // As if it had run that much faster from the beginning of the run.
                self.drift_permille = self.drift_permille.max(1_000_000);
                let what = format!("the clock of server {} jumps by {by:?}", name(world, victim));
                done(what, Undo::Nothing, moment)
            }
            Kind::SlowDisk | Kind::StalledDisk => {
                let (least, most) = if kind == Kind::SlowDisk { (5, 150) } else { (400, 4000) };
                world.sites[victim].drive.set_sync(Duration::from_millis(least), Duration::from_millis(most));
                let what = format!("{kind:?} of server {}", name(world, victim));
                done(what, Undo::Disk(victim), lasts)
            }
            Kind::SyncError | Kind::WriteError | Kind::FullDisk => {
                world.sites[victim].drive.set_faults(Faults {
                    sync_fails: kind == Kind::SyncError,
                    write_fails: kind == Kind::WriteError,
                    full: kind == Kind::FullDisk,
                });
                let what = format!("{kind:?} on the disk of server {}", name(world, victim));
                done(what, Undo::Disk(victim), lasts)
            }
            Kind::Replacement => {
                world.wipe(victim, short);
                let what = format!("a disk is lost; its server comes back as {}", name(world, victim));
                done(what, Undo::Member, short)
            }
            Kind::MemberChange => {
                let asked = leader_or(world, victim);
                let member = world.look(victim)?.member;
                let store = world.sites[asked].store.clone()?;
                let left = std::sync::Arc::new(Mutex::new(None));
                let told = std::sync::Arc::clone(&left);
                world.sites[asked]
                    .host
                    .spawn(async move { *told.lock() = Some(store.leave(member).await.is_ok()) });
                let life = world.sites[asked].life;
                world.leaving.push(Leaving { number: victim, asked, life, left });
                let what = format!("server {} is told to leave", name(world, victim));
                done(what, Undo::Member, Duration::from_secs(1))
            }
            Kind::Checkpoint => {
                for number in 0..servers {
                    if number == victim || world.random.random_bool(0.5) {
                        checkpoint(world, number);
                    }
                }
                // The power may go in the middle of it.
                if world.random.random_bool(0.5) {
                    world.sites[victim].drive.light_fuse(world.random.random_range(0..12));
                }
                done("checkpoints are written".to_owned(), Undo::Nothing, moment)
            }
            Kind::Lag => {
                let (one, other) = split(world, &[victim], 1);
                let links = both_ways(&one, &other);
                cut(world, &links);
                for number in &other {
                    checkpoint_later(world, *number, lasts / 2);
                }
                let what = format!("server {} lags behind the others' logs", name(world, victim));
                done(what, Undo::Links(links), lasts)
            }
            Kind::Transfer => {
                let asked = leader_or(world, victim);
                let store = world.sites[asked].store.clone()?;
                world.sites[asked].host.spawn(async move { drop(store.transfer(None).await) });
                done("leadership is handed over".to_owned(), Undo::Nothing, moment)
            }
            Kind::RollingRestart => {
                let rolling = Undo::Rolling { next: 0, turn: world.now };
                done("servers are restarted in turn".to_owned(), rolling, moment)
            }
            Kind::WatchersMove => {
                let (_, others) = split(world, &[victim], 1);
                world.swap_watchers(victim, others[0]);
                world.end(victim, false, short);
                world.end(others[0], false, short);
                done("watchers change servers".to_owned(), Undo::Nothing, short)
            }
        }
    }
}

fn leader_or(world: &World, other: usize) -> usize {
    world.leader().unwrap_or(other)
}

fn checkpoint(world: &World, number: usize) {
    checkpoint_later(world, number, Duration::ZERO);
}

fn checkpoint_later(world: &World, number: usize, after: Duration) {
    let site = &world.sites[number];
    if let Some(store) = site.store.clone() {
        site.host.spawn(async move {
            tokio::time::sleep(after).await;
            drop(store.checkpoint().await);
        });
    }
}
