//! The simulator: runs seeds, repeats them, and plants defects to prove that it would find them.
//!
//! Each run is a process of its own, so that it repeats exactly: `one SEED` is what the others start.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use kontiki_chaos::sim::{self, Report, entropy};
use kontiki_store::simulation::Mutant;
use parking_lot::Mutex;

/// Answers for libc: see [`entropy`].
///
/// # Safety
/// As libc's: the buffer holds `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if length > 0 {
        // SAFETY: the caller promises a buffer of this length.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
        if entropy::fill(bytes) {
            return length as libc::ssize_t;
        }
    }
    // SAFETY: handed on as it came.
    unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as libc::ssize_t }
}

/// The calendar of a run with the API's verbs is the simulated world's; all other clocks are the machine's.
///
/// # Safety
/// As libc's: the pointer is to a place for a time.
#[cfg(feature = "simulation-api")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, out: *mut libc::timespec) -> libc::c_int {
    if clock == libc::CLOCK_REALTIME
        && let Some(now) = sim::api::wall_clock()
    {
        let time = libc::timespec {
            tv_sec: now.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(now.subsec_nanos() as i32),
        };
        // SAFETY: the caller promises a place for it.
        unsafe { out.write(time) };
        return 0;
    }
    // SAFETY: handed on as it came.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) as libc::c_int }
}

/// Whether runs have the API's verbs before the store; where they are not built in, nobody can ask for them.
static WITH_API: AtomicBool = AtomicBool::new(false);

#[derive(Parser)]
#[command(
    about = "Simulates clusters and checks that nothing acknowledged is lost and no reader sees the past"
)]
struct Cli {
    /// With the API's verbs before each store; needs the feature `simulation-api`.
    #[cfg(feature = "simulation-api")]
    #[arg(long, global = true)]
    api: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Runs seeds, one after the other; fails where one violates a guarantee or hangs.
    Run {
        #[arg(long, default_value_t = 500)]
        runs: u64,
        /// The first seed; the others follow it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Processes at once; as many as there are cores, if not given.
        #[arg(long)]
        threads: Option<usize>,
        /// Goes on with further seeds until so many minutes have passed, whatever `runs` says.
        #[arg(long)]
        minutes: Option<u64>,
        /// Seconds after which a run counts as hung.
        #[arg(long, default_value_t = 180)]
        patience: u64,
    },
    /// Runs one seed twice and compares everything that happened.
    Repeat {
        seed: u64,
        /// Prints all that happened.
        #[arg(long)]
        trace: bool,
        #[arg(long)]
        mutant: Option<String>,
    },
    /// Plants each defect and counts the runs until it is found.
    Mutants {
        /// How often each is hunted.
        #[arg(long, default_value_t = 1)]
        times: u64,
        /// Runs after which a hunt gives up.
        #[arg(long, default_value_t = 400)]
        limit: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Only this one.
        #[arg(long)]
        only: Option<String>,
        #[arg(long)]
        threads: Option<usize>,
        #[arg(long, default_value_t = 180)]
        patience: u64,
    },
    /// One run, in this process; prints its report as a line.
    #[command(hide = true)]
    One {
        seed: u64,
        #[arg(long)]
        mutant: Option<String>,
        /// Where to write all that happened.
        #[arg(long)]
        trace: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    seed_before_anything_else();
    let cli = Cli::parse();
    #[cfg(feature = "simulation-api")]
    if cli.api {
        WITH_API.store(true, Ordering::Relaxed);
    }
    let result = match cli.what {
        What::Run { runs, seed, threads, minutes, patience } => {
            let hunters =
                Hunters { threads: threads_or_cores(threads), patience: Duration::from_secs(patience) };
            run(&hunters, runs, seed, minutes)
        }
        What::Repeat { seed, trace, mutant } => repeat(seed, trace, mutant.as_deref()),
        What::Mutants { times, limit, seed, only, threads, patience } => {
            let hunters =
                Hunters { threads: threads_or_cores(threads), patience: Duration::from_secs(patience) };
            mutants(&hunters, times, limit, seed, only.as_deref())
        }
        What::One { seed, mutant, trace } => one(seed, mutant.as_deref(), trace.as_deref()),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kontiki-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Hash maps take their keys once: the seed has to be there before the first of them is made.
fn seed_before_anything_else() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("one")
        && let Some(seed) = arguments.next().and_then(|seed| seed.parse().ok())
    {
        entropy::seed(seed);
    }
}

fn threads_or_cores(threads: Option<usize>) -> usize {
    threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1)
}

fn mutant_named(name: Option<&str>) -> Result<Option<Mutant>> {
    name.map(|name| Mutant::named(name).with_context(|| format!("there is no mutant {name}"))).transpose()
}

fn one(seed: u64, mutant: Option<&str>, trace: Option<&Path>) -> Result<ExitCode> {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    }
    #[cfg(feature = "simulation-api")]
    if WITH_API.load(Ordering::Relaxed) {
        sim::api::want();
    }
    let (report, text) = sim::run(seed, mutant_named(mutant)?, trace.is_some());
    if let Some(path) = trace {
        std::fs::write(path, text).context("the trace cannot be written")?;
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(ExitCode::SUCCESS)
}

/// How a run's process ended.
enum End {
    Reported(Box<Report>),
    /// It was stopped after its time.
    Hung,
    /// It died by itself, with these last words.
    Crashed(String),
}

fn start(seed: u64, mutant: Option<&str>, trace: Option<&Path>, patience: Duration) -> Result<End> {
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let mut command = Command::new(program);
    command.arg("one").arg(seed.to_string());
    if let Some(mutant) = mutant {
        command.args(["--mutant", mutant]);
    }
    if let Some(path) = trace {
        command.arg("--trace").arg(path);
    }
    if WITH_API.load(Ordering::Relaxed) {
        command.arg("--api");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("a run cannot be started")?;
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        bail!("a run has no output");
    };
    let said = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let complained = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(End::Hung);
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let unread = |_| anyhow::anyhow!("reading a run's output failed");
    let said = said.join().map_err(unread)??;
    let complained = complained.join().map_err(unread)??;
    if !status.success() {
        let mut last: Vec<&str> = complained.lines().rev().take(6).collect();
        last.reverse();
        return Ok(End::Crashed(format!("{status}: {}", last.join(" | "))));
    }
    Ok(End::Reported(serde_json::from_str(said.trim()).context("a run's report cannot be read")?))
}

#[derive(Default)]
struct Sum {
    runs: u64,
    operations: usize,
    acknowledged: usize,
    events: usize,
    virtual_millis: u64,
    messages: u64,
    faults: BTreeMap<String, u64>,
    violated: u64,
    hung: u64,
    crashed: u64,
    undecided: usize,
}

impl Sum {
    fn add(&mut self, seed: u64, end: End) {
        self.runs += 1;
        match end {
            End::Reported(report) => {
                self.operations += report.operations;
                self.acknowledged += report.acknowledged;
                self.events += report.watch_events;
                self.virtual_millis += report.virtual_millis;
                self.messages += report.messages;
                self.undecided += report.undecided;
                for (kind, count) in report.faults {
                    *self.faults.entry(kind).or_default() += count;
                }
                if !report.violations.is_empty() {
                    self.violated += 1;
                    println!("seed {seed}: VIOLATION");
                    for violation in report.violations.iter().take(5) {
                        println!("  ! {violation}");
                    }
                    println!("  again: kontiki-sim repeat {seed}");
                }
            }
            End::Hung => {
                self.hung += 1;
                println!("seed {seed}: HUNG\n  again: kontiki-sim repeat {seed}");
            }
            End::Crashed(words) => {
                self.crashed += 1;
                println!("seed {seed}: CRASHED, {words}\n  again: kontiki-sim repeat {seed}");
            }
        }
    }

    fn is_clean(&self) -> bool {
        self.violated + self.hung + self.crashed == 0
    }

    fn print(&self, took: Duration) {
        let faults: u64 = self.faults.values().sum();
        let kinds: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        println!("faults: {}", kinds.join(", "));
        println!(
            "{} runs in {:.0} s: {} operations ({} acknowledged), {} watch events, {} messages, {:.1} virtual hours, \
             {faults} faults; {} violated, {} hung, {} crashed, {} undecided",
            self.runs,
            took.as_secs_f64(),
            self.operations,
            self.acknowledged,
            self.events,
            self.messages,
            self.virtual_millis as f64 / 3_600_000.0,
            self.violated,
            self.hung,
            self.crashed,
            self.undecided
        );
    }
}

/// Processes at once, and how long one may take.
struct Hunters {
    threads: usize,
    patience: Duration,
}

impl Hunters {
    /// Gives numbers from 0 to `work` until it says that it is enough.
    fn each(&self, work: impl Fn(u64) -> Result<bool> + Sync) -> Result<()> {
        let next = AtomicU64::new(0);
        let failed: Mutex<Option<anyhow::Error>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    while failed.lock().is_none() {
                        match work(next.fetch_add(1, Ordering::Relaxed)) {
                            Ok(true) => {}
                            Ok(false) => return,
                            Err(error) => *failed.lock() = Some(error),
                        }
                    }
                });
            }
        });
        failed.into_inner().map_or(Ok(()), Err)
    }
}

fn run(hunters: &Hunters, runs: u64, seed: u64, minutes: Option<u64>) -> Result<ExitCode> {
    let began = Instant::now();
    let until = minutes.map(|minutes| began + Duration::from_secs(minutes * 60));
    let sum = Mutex::new(Sum::default());
    hunters.each(|number| {
        if !until.map_or(number < runs, |until| Instant::now() < until) {
            return Ok(false);
        }
        let seed = seed.wrapping_add(number);
        let end = start(seed, None, None, hunters.patience)?;
        sum.lock().add(seed, end);
        Ok(true)
    })?;
    let sum = sum.into_inner();
    sum.print(began.elapsed());
    Ok(if sum.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn repeat(seed: u64, show: bool, mutant: Option<&str>) -> Result<ExitCode> {
    mutant_named(mutant)?;
    let folder = std::env::temp_dir();
    let own = std::process::id();
    let paths = [0, 1].map(|number| folder.join(format!("kontiki-sim-{own}-{number}.trace")));
    let mut reports = Vec::new();
    for path in &paths {
        match start(seed, mutant, Some(path), Duration::from_secs(600))? {
            End::Reported(report) => reports.push(report),
            End::Hung => bail!("the run of seed {seed} hangs"),
            End::Crashed(words) => bail!("the run of seed {seed} crashes: {words}"),
        }
    }
    let texts = [std::fs::read(&paths[0])?, std::fs::read(&paths[1])?];
    for path in &paths {
        std::fs::remove_file(path)?;
    }
    if show {
        println!("{}", String::from_utf8_lossy(&texts[0]));
    }
    let report = &reports[0];
    println!("{}", serde_json::to_string_pretty(report)?);
    if texts[0] != texts[1] || reports[0] != reports[1] {
        let at = texts[0].iter().zip(&texts[1]).take_while(|(one, other)| one == other).count();
        let line = texts[0][..at].iter().filter(|byte| **byte == b'\n').count();
        let shown =
            |text: &[u8]| String::from_utf8_lossy(text).lines().nth(line).unwrap_or("(the end)").to_owned();
        println!("seed {seed} does not repeat, from line {} of the trace:", line + 1);
        println!("  {}\n  {}", shown(&texts[0]), shown(&texts[1]));
        return Ok(ExitCode::FAILURE);
    }
    println!("seed {seed} repeats to the byte: {} lines, {:016x}", report.trace_lines, report.trace_hash);
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs until a defect is found: how many it took, and the first violation.
fn hunt(hunters: &Hunters, mutant: Mutant, seed: u64, limit: u64) -> Result<Option<(u64, String)>> {
    let name = format!("{mutant:?}");
    let found: Mutex<Option<(u64, String)>> = Mutex::default();
    hunters.each(|number| {
        // Runs of earlier seeds are waited for, so that the count is always the same.
        let earlier = found.lock().as_ref().is_none_or(|(first, _)| number < *first);
        if number >= limit || !earlier {
            return Ok(false);
        }
        let why = match start(seed.wrapping_add(number), Some(&name), None, hunters.patience)? {
            End::Reported(report) => report.violations.into_iter().next(),
            End::Hung => Some("the run hung".to_owned()),
            End::Crashed(words) => Some(format!("the run crashed: {words}")),
        };
        if let Some(why) = why {
            let mut found = found.lock();
            if found.as_ref().is_none_or(|(first, _)| number < *first) {
                *found = Some((number, why));
            }
        }
        Ok(true)
    })?;
    Ok(found.into_inner().map(|(number, why)| (number + 1, why)))
}

fn mutants(hunters: &Hunters, times: u64, limit: u64, seed: u64, only: Option<&str>) -> Result<ExitCode> {
    let only = mutant_named(only)?;
    let mut all_found = true;
    for mutant in Mutant::ALL.into_iter().filter(|mutant| only.is_none_or(|only| only == *mutant)) {
        let mut took = Vec::new();
        let mut example = String::new();
        for time in 0..times {
            // Far apart, so that no two hunts share a seed.
            let first = seed.wrapping_add(time * 100_000);
            match hunt(hunters, mutant, first, limit)? {
                Some((runs, why)) => {
                    took.push(runs);
                    example = why;
                }
                None => println!("{mutant:?}: NOT FOUND in {limit} runs from seed {first}"),
            }
        }
        took.sort_unstable();
        all_found &= took.len() as u64 == times;
        let (Some(median), Some(most)) = (took.get(took.len() / 2), took.last()) else { continue };
        let example: String = example.chars().take(110).collect();
        let name = format!("{mutant:?}");
        println!("{name:20} found {}/{times}, median {median} runs, most {most}: {example}", took.len());
    }
    Ok(if all_found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
