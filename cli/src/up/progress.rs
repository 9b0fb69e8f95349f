//! A line for each step, so that nobody wonders what takes so long.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize;

/// One step under way: a spinner on a terminal, nothing in a log until it is done.
pub struct Step {
    title: String,
    started: Instant,
    spinner: ProgressBar,
}

impl Step {
    pub fn begin(title: &str) -> Step {
        let style =
            ProgressStyle::with_template("{spinner} {msg}").unwrap_or(ProgressStyle::default_spinner());
        let spinner = ProgressBar::new_spinner().with_style(style).with_message(title.to_string());
        spinner.enable_steady_tick(Duration::from_millis(100));
        Step { title: title.into(), started: Instant::now(), spinner }
    }

    /// What is being waited for now.
    pub fn say(&self, what: &str) {
        self.spinner.set_message(format!("{}: {what}", self.title));
    }

    pub fn done(self, outcome: &str) {
        self.spinner.finish_and_clear();
        let seconds = self.started.elapsed().as_secs_f64();
        if std::io::stderr().is_terminal() {
            eprintln!("{} {}: {outcome} ({seconds:.1} s)", "✔".green(), self.title);
        } else {
            eprintln!("✔ {}: {outcome} ({seconds:.1} s)", self.title);
        }
    }
}
