//! Cuts the power under one store, again and again, and looks what is left.
//!
//! ```text
//!   plan (seed) ─► worker process ── writes ──► disk (FUSE)     a directory lives through some thirty cuts,
//!                     │ tells what it is told       │            then a new one is begun
//!                     ▼                             ▼
//!                   judge ◄── tells what it holds ── opened again
//! ```
//!
//! Where it is cut: at a random request of the workload, of the opening, or of a checkpoint; or the process is killed first,
//! and the power goes before or after the directory has been opened again, so that what was only in the page cache has been
//! read and built on. **Invariant:** the request at which the power goes is not performed, and no later one is.

mod judge;
mod worker;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::disk::{Disk, Loss};
use crate::world;
use judge::Judge;
pub use worker::{WorkerArgs, work};

/// Longest time an opening may take.
const OPENING: Duration = Duration::from_secs(120);
/// Cuts that one directory lives through.
const LIVES: u64 = 30;
/// Longest wait for the request at which the power is to go; then it goes.
const PATIENCE: Duration = Duration::from_millis(400);
/// Reported one by one; further ones are counted.
const SHOWN: usize = 20;
const SHOWN_OF_ONE: usize = 3;

#[derive(Args, Clone, Debug)]
pub struct PowerCutArgs {
    /// How often the power is cut
    #[arg(long, default_value_t = 200)]
    pub cuts: u64,
    /// Decides the workload, where it is cut and what is lost; a new one by default
    #[arg(long)]
    pub seed: Option<u64>,
    /// Directories that are hurt at the same time
    #[arg(long, default_value_t = 2)]
    pub threads: u64,
}

/// Where the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Workload,
    Opening,
    Checkpoint,
    /// Killed first; cut before it is opened again.
    Killed,
    /// Killed first and opened again; cut when it has worked on.
    Reopened,
    /// Stopped in good order first.
    Stopped,
}

impl Moment {
    fn any(random: &mut StdRng) -> Moment {
        match random.random_range(0..100) {
            0..50 => Moment::Workload,
            50..65 => Moment::Opening,
            65..80 => Moment::Checkpoint,
            80..86 => Moment::Killed,
            86..96 => Moment::Reopened,
            _ => Moment::Stopped,
        }
    }
}

#[derive(Default)]
struct Tally {
    cuts: BTreeMap<Moment, u64>,
    directories: u64,
    acknowledged: u64,
    unknown: u64,
    loss: Loss,
    not_opened: u64,
    lost: u64,
    others: u64,
    problems: Vec<String>,
}

/// Runs the cuts and prints what came of them; whether nothing was lost.
///
/// # Errors
/// When this machine cannot do it. Must be called while the process has one thread.
pub fn run(args: &PowerCutArgs) -> Result<bool> {
    world::enter()?;
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let dir = tempfile::Builder::new().prefix("kontiki-power-").tempdir()?;
    certify(dir.path())?;
    let (begun, left) = (Instant::now(), AtomicU64::new(args.cuts));
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..args.threads.clamp(1, 64))
            .map(|number| {
                let bench = Bench { number, root: dir.path().to_owned(), left: &left, tally: &tally };
                let random =
                    StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number));
                scope.spawn(move || bench.run(random))
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread of the test died")))
    })?;
    let tally = tally.into_inner();
    report(&tally, seed, begun.elapsed(), args);
    Ok(tally.problems.is_empty())
}

fn report(tally: &Tally, seed: u64, took: Duration, args: &PowerCutArgs) {
    let cuts: u64 = tally.cuts.values().sum();
    let bad = tally.not_opened + tally.lost + tally.others;
    println!(
        "{}  power-cut  seed {seed}   {cuts} cuts in {:.1} s ({:.1} per s), {} directories",
        if bad == 0 { "PASS" } else { "FAIL" },
        took.as_secs_f64(),
        cuts as f64 / took.as_secs_f64(),
        tally.directories
    );
    let moments: Vec<String> =
        tally.cuts.iter().map(|(moment, cuts)| format!("{moment:?} {cuts}").to_lowercase()).collect();
    println!("      cut at: {}", moments.join(", "));
    println!(
        "      {} transactions acknowledged, {} of unknown outcome; of the unsynced {} sectors and {} names were lost, {} and {} kept",
        tally.acknowledged,
        tally.unknown,
        tally.loss.sectors_lost,
        tally.loss.names_lost,
        tally.loss.sectors_kept,
        tally.loss.names_kept
    );
    println!(
        "      directories that did not open: {}, that had lost what was acknowledged: {}, other violations: {}",
        tally.not_opened, tally.lost, tally.others
    );
    for problem in tally.problems.iter().take(SHOWN) {
        println!("    ! {}", problem.replace('\n', "\n      "));
    }
    if tally.problems.len() > SHOWN {
        println!("    ! and {} more", tally.problems.len() - SHOWN);
    }
    println!(
        "      again: kontiki-chaos power-cut --cuts {} --threads {} --seed {seed}",
        args.cuts, args.threads
    );
}

/// A certificate authority and one peer's certificate, as files.
fn certify(dir: &Path) -> Result<()> {
    let mut authority = CertificateParams::new(Vec::<String>::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "kontiki-power-cut");
    let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let mut peer = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    peer.distinguished_name.push(DnType::CommonName, "a-server");
    peer.distinguished_name.push(DnType::OrganizationName, "kontiki:peers");
    let peer = peer.signed_by(&key, &issuer)?;
    for (name, text) in
        [("ca.pem", issuer.pem()), ("peer.pem", peer.pem()), ("peer.key", key.serialize_pem())]
    {
        std::fs::write(dir.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

/// One directory after the other, hurt until there are no cuts left.
struct Bench<'a> {
    number: u64,
    root: PathBuf,
    left: &'a AtomicU64,
    tally: &'a Mutex<Tally>,
}

/// A worker that runs, and what it says.
struct Worker {
    child: Child,
    reader: std::thread::JoinHandle<Vec<String>>,
    /// `true` when it has opened, `false` when it begins a checkpoint; closed when it has ended.
    signs: mpsc::Receiver<bool>,
}

impl Worker {
    /// Waits for a sign; false when it has ended, or says nothing for longer than an opening may take.
    fn await_sign(&self, opened: bool) -> bool {
        let deadline = Instant::now() + OPENING;
        while let Ok(sign) = self.signs.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if sign == opened {
                return true;
            }
        }
        false
    }
}

impl Bench<'_> {
    fn take_cut(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn run(&self, mut random: StdRng) -> Result<()> {
        let mut directory = 0;
        loop {
            let path = self.root.join(format!("disk-{}-{directory}", self.number));
            std::fs::create_dir(&path)?;
            let disk = Disk::mount(&path)?;
            let mut life = Life { bench: self, disk, judge: Judge::default(), directory, cuts: 0, first: 1 };
            let end = life.run(&mut random)?;
            let mut tally = self.tally.lock();
            tally.directories += 1;
            tally.acknowledged += life.judge.acknowledged;
            tally.unknown += life.judge.unknown;
            drop(tally);
            drop(life);
            directory += 1;
            if end {
                return Ok(());
            }
        }
    }
}

/// A directory from its making to its end.
struct Life<'a> {
    bench: &'a Bench<'a>,
    disk: Disk,
    judge: Judge,
    directory: u64,
    cuts: u64,
    first: u64,
}

impl Life<'_> {
    /// Whether there are no cuts left.
    fn run(&mut self, random: &mut StdRng) -> Result<bool> {
        while self.cuts < LIVES {
            if !self.bench.take_cut() {
                // Every cut is judged, the last one too.
                if self.cuts > 0 {
                    self.look(random)?;
                }
                return Ok(true);
            }
            let moment = Moment::any(random);
            let whole = self.cut(moment, random)?;
            self.cuts += 1;
            *self.bench.tally.lock().cuts.entry(moment).or_default() += 1;
            if !whole {
                return Ok(false);
            }
        }
        self.look(random)?;
        Ok(false)
    }

    /// Opens once more, without a cut.
    fn look(&mut self, random: &mut StdRng) -> Result<bool> {
        let worker = self.start(random, false, Some(1))?;
        worker.await_sign(true);
        self.end(worker, true)
    }

    /// One worker, or two, and one cut; false when the directory is of no more use.
    fn cut(&mut self, moment: Moment, random: &mut StdRng) -> Result<bool> {
        let seed: u64 = random.random();
        // Few requests as often as many.
        let requests = 2_f64.powf(random.random_range(0.0..9.5)) as u64;
        match moment {
            Moment::Opening => {
                self.disk.cut_power_at(requests.min(80), seed);
                let worker = self.start(random, false, None)?;
                self.await_cut(seed);
                return self.power(worker, false);
            }
            Moment::Stopped => {
                let (checkpoints, until) = (random.random_bool(0.3), random.random_range(1..200));
                let worker = self.start(random, checkpoints, Some(until))?;
                worker.await_sign(true);
                // Until it has stopped, or an opening's time has passed.
                while worker.signs.recv_timeout(OPENING).is_ok() {}
                self.disk.cut_power(seed);
                return self.power(worker, true);
            }
            Moment::Killed | Moment::Reopened => {
                let checkpoints = random.random_bool(0.2);
                let worker = self.start(random, checkpoints, None)?;
                worker.await_sign(true);
                std::thread::sleep(Duration::from_millis(random.random_range(0..40)));
                if !self.end(worker, true)? {
                    self.disk.cut_power(seed);
                    self.disk.restore_power();
                    return Ok(false);
                }
                if moment == Moment::Killed {
                    self.note(self.disk.cut_power(seed));
                    self.disk.restore_power();
                    return Ok(true);
                }
            }
            Moment::Workload | Moment::Checkpoint => {}
        }
        let worker = self.start(random, moment == Moment::Checkpoint, None)?;
        let mut ready = worker.await_sign(true);
        if ready && moment == Moment::Checkpoint {
            for _ in 0..random.random_range(1..4) {
                ready = worker.await_sign(false);
            }
        }
        if ready {
            self.disk.cut_power_at(requests, seed);
        }
        self.await_cut(seed);
        self.power(worker, ready)
    }

    fn await_cut(&self, seed: u64) {
        match self.disk.await_cut(PATIENCE) {
            Some(_) => {}
            None => drop(self.disk.cut_power(seed)),
        }
    }

    /// Ends the worker of a disk that has lost power, and restores that.
    fn power(&mut self, worker: Worker, must_open: bool) -> Result<bool> {
        let whole = self.end(worker, must_open)?;
        if let Some(loss) = self.disk.await_cut(Duration::ZERO) {
            self.note(loss);
        }
        self.disk.restore_power();
        Ok(whole)
    }

    fn note(&self, loss: Loss) {
        let total = &mut self.bench.tally.lock().loss;
        total.sectors_kept += loss.sectors_kept;
        total.sectors_lost += loss.sectors_lost;
        total.names_kept += loss.names_kept;
        total.names_lost += loss.names_lost;
    }

    fn words(&self) -> PathBuf {
        self.bench.root.join(format!("words-{}", self.bench.number))
    }

    fn start(&mut self, random: &mut StdRng, checkpoints: bool, until: Option<u64>) -> Result<Worker> {
        self.judge.begin();
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("power-cut-worker").arg("--data-dir").arg(self.disk.path().join("data"));
        command.arg("--tls").arg(&self.bench.root);
        command.arg("--listen").arg(format!("127.0.0.1:{}", 3000 + self.bench.number));
        command.arg("--seed").arg(random.random::<u32>().to_string());
        command.arg("--first").arg(self.first.to_string());
        command.arg("--clients").arg([1, 4, 16][random.random_range(0..3)].to_string());
        if checkpoints {
            command.arg("--checkpoints");
        }
        if let Some(until) = until {
            command.arg("--until").arg(until.to_string());
        }
        // Numbers are used once, whatever becomes of them.
        self.first += 1_000_000;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(self.words())?);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let mut child = command.spawn().context("cannot start the worker")?;
        let output = child.stdout.take().context("the worker has no output")?;
        let (tell, signs) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut lines = Vec::new();
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if line.starts_with("open ") {
                    let _ = tell.send(true);
                } else if line == "checkpoint" {
                    let _ = tell.send(false);
                }
                lines.push(line);
            }
            lines
        });
        Ok(Worker { child, reader, signs })
    }

    /// Kills the worker and judges what it said; false when the directory is of no more use.
    fn end(&mut self, mut worker: Worker, must_open: bool) -> Result<bool> {
        worker.child.kill()?;
        worker.child.wait()?;
        let lines = worker.reader.join().unwrap_or_default();
        let mut problems = Vec::new();
        for line in &lines {
            problems.extend(self.judge.hear(line));
        }
        let place = format!("directory {}-{}, cut {}", self.bench.number, self.directory, self.cuts);
        let mut tally = self.bench.tally.lock();
        if problems.iter().any(|problem| problem.starts_with("lost") || problem.contains("went back")) {
            tally.lost += 1;
        } else if !problems.is_empty() {
            tally.others += 1;
        }
        if must_open && !self.judge.opened {
            tally.not_opened += 1;
            let words = std::fs::read_to_string(self.words()).unwrap_or_default();
            let tail: Vec<&str> = words.lines().rev().take(3).collect();
            problems
                .push(format!("did not open: {}", tail.into_iter().rev().collect::<Vec<_>>().join(" | ")));
        }
        let whole = problems.is_empty();
        if problems.len() > SHOWN_OF_ONE {
            let rest = problems.split_off(SHOWN_OF_ONE).len();
            problems.push(format!("and {rest} more"));
        }
        tally.problems.extend(problems.into_iter().map(|problem| format!("{place}: {problem}")));
        Ok(whole)
    }
}
