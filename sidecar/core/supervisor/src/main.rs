//! PID 1 of the sidecar container. It starts the daemon, restarts it with back-off, reaps what is left over, passes SIGTERM and SIGINT on,
//! and never exits by itself: a daemon that crashes, crash-loops or cannot be started is no container restart and no change of readiness.
//!
//! `spillway-supervisor [-- COMMAND ARG...]`; without a command it runs the daemon. The daemon finds the number of its predecessors in the
//! environment variable SPILLWAY_DAEMON_RESTARTS.
#![deny(unsafe_code)]

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

mod backoff;
mod report;
#[allow(unsafe_code)]
mod system;

use backoff::Backoff;
use system::{End, Signal};

const DEFAULT_COMMAND: [&str; 3] = ["python3", "-m", "spillway.daemon"];
const RESTARTS_VARIABLE: &str = "SPILLWAY_DAEMON_RESTARTS";
/// What a stopping daemon gets before SIGKILL. The kubelet ends the container sooner when the pod's own grace is shorter.
const STOP_GRACE: Duration = Duration::from_secs(3600);

fn main() -> ExitCode {
    let command = command_of(std::env::args().skip(1).collect());
    if let Err(error) = system::prepare() {
        report::line("supervisor cannot set up its signals", &[("error", error.to_string())]);
    }
    let mut backoff = Backoff::new();
    let mut restarts = 0_u64;
    loop {
        let started = Instant::now();
        let ended = match start(&command, restarts) {
            Ok(pid) => match watch(pid) {
                Watched::Ended(end) => end.to_string(),
                Watched::Stopped(end) => return ExitCode::from(end.exit_code()),
            },
            Err(error) => format!("cannot start {}: {error}", command[0]),
        };
        let delay = backoff.next(started.elapsed());
        let lived = format!("{:.3}", started.elapsed().as_secs_f64());
        report::line(
            "daemon ended and is restarted",
            &[
                ("reason", ended),
                ("lived_seconds", lived),
                ("restarts", (restarts + 1).to_string()),
                ("delay_seconds", delay.as_secs_f64().to_string()),
            ],
        );
        if system::wait_for_stop(delay) {
            return ExitCode::SUCCESS;
        }
        restarts += 1;
    }
}

fn command_of(arguments: Vec<String>) -> Vec<String> {
    let given: Vec<String> = arguments.into_iter().skip_while(|argument| argument == "--").collect();
    if given.is_empty() { DEFAULT_COMMAND.map(String::from).to_vec() } else { given }
}

fn start(command: &[String], restarts: u64) -> std::io::Result<i32> {
    let mut child = Command::new(&command[0]);
    child.args(&command[1..]).env(RESTARTS_VARIABLE, restarts.to_string());
    system::die_with_parent(&mut child);
    // The handle is dropped: every child is reaped in `watch`, the daemon among them.
    Ok(child.spawn()?.id() as i32)
}

enum Watched {
    /// The daemon ended by itself.
    Ended(End),
    /// It ended because we were asked to stop.
    Stopped(End),
}

/// Wait for the daemon's end, passing signals on and reaping orphans meanwhile.
fn watch(pid: i32) -> Watched {
    let mut kill_at: Option<Instant> = None;
    loop {
        if let Some(end) = system::reap(pid) {
            return if kill_at.is_some() { Watched::Stopped(end) } else { Watched::Ended(end) };
        }
        let timeout = kill_at.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
        match system::next_signal(timeout) {
            Signal::Stop(number) => {
                system::send(pid, number);
                kill_at.get_or_insert(Instant::now() + STOP_GRACE);
            }
            Signal::Child => {}
            Signal::None if kill_at.is_some_and(|at| at <= Instant::now()) => system::send(pid, libc::SIGKILL),
            Signal::None => {}
        }
    }
}
