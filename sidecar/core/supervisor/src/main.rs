//! PID 1 of the sidecar container. It starts the daemon, restarts it with back-off, reaps what is left over, passes SIGTERM and SIGINT on,
//! and never exits by itself: a daemon that crashes, crash-loops or cannot be started is no container restart and no change of readiness.
//!
//! `spillway-supervisor [-- COMMAND ARG...]`; without a command it runs the daemon. The daemon finds its predecessors, counted by the cause of
//! their end, in the environment variable SPILLWAY_DAEMON_RESTARTS, and in SPILLWAY_HEARTBEAT_FD the descriptor of a file of 8 bytes. There it
//! stores by when, in nanoseconds of CLOCK_MONOTONIC, it stores again; one that does not is killed with SIGKILL and restarted, or ends our own
//! end. A daemon that stores nothing is not watched.
#![deny(unsafe_code)]

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

mod backoff;
mod causes;
#[allow(unsafe_code)]
mod heartbeat;
mod report;
#[allow(unsafe_code)]
mod system;
mod watch;

use backoff::Backoff;
use causes::{Cause, Causes};
use heartbeat::Heartbeat;
use system::{End, Signal};
use watch::{LOOK_EVERY, Watch};

const DEFAULT_COMMAND: [&str; 3] = ["python3", "-m", "spillway.daemon"];
const RESTARTS_VARIABLE: &str = "SPILLWAY_DAEMON_RESTARTS";
const HEARTBEAT_VARIABLE: &str = "SPILLWAY_HEARTBEAT_FD";
/// What a stopping daemon gets before SIGKILL. The kubelet ends the container sooner when the pod's own grace is shorter.
const STOP_GRACE: Duration = Duration::from_secs(3600);

fn main() -> ExitCode {
    let command = command_of(std::env::args().skip(1).collect());
    if let Err(error) = system::prepare() {
        report::line("supervisor cannot set up its signals", &[("error", error.to_string())]);
    }
    let heartbeat = Heartbeat::new().inspect_err(|error| report::line("daemons are not watched", &[("error", error.to_string())])).ok();
    let mut backoff = Backoff::new();
    let mut causes = Causes::default();
    loop {
        let started = Instant::now();
        let (cause, ended) = match start(&command, &causes, heartbeat.as_ref()) {
            Ok(pid) => match watch(pid, heartbeat.as_ref()) {
                Watched::Ended(cause, end) => (cause, end.to_string()),
                Watched::Stopped(end) => return ExitCode::from(end.exit_code()),
            },
            Err(error) => (Cause::NotStarted, format!("cannot start {}: {error}", command[0])),
        };
        causes.count(cause);
        let delay = backoff.next(started.elapsed());
        let lived = format!("{:.3}", started.elapsed().as_secs_f64());
        report::line(
            "daemon ended and is restarted",
            &[
                ("cause", cause.name().to_owned()),
                ("reason", ended),
                ("lived_seconds", lived),
                ("restarts", causes.total().to_string()),
                ("delay_seconds", delay.as_secs_f64().to_string()),
            ],
        );
        if system::wait_for_stop(delay) {
            return ExitCode::SUCCESS;
        }
    }
}

fn command_of(arguments: Vec<String>) -> Vec<String> {
    let given: Vec<String> = arguments.into_iter().skip_while(|argument| argument == "--").collect();
    if given.is_empty() { DEFAULT_COMMAND.map(String::from).to_vec() } else { given }
}

fn start(command: &[String], causes: &Causes, heartbeat: Option<&Heartbeat>) -> std::io::Result<i32> {
    let mut child = Command::new(&command[0]);
    child.args(&command[1..]).env(RESTARTS_VARIABLE, causes.render());
    if let Some(heartbeat) = heartbeat {
        heartbeat.clear();
        child.env(HEARTBEAT_VARIABLE, heartbeat.descriptor().to_string());
    }
    system::prepare_child(&mut child, heartbeat.map(Heartbeat::descriptor));
    // The handle is dropped: every child is reaped in `watch`, the daemon among them.
    Ok(child.spawn()?.id() as i32)
}

enum Watched {
    /// The daemon ended, or stood still and was ended.
    Ended(Cause, End),
    /// It ended because we were asked to stop.
    Stopped(End),
}

/// Wait for the daemon's end, passing signals on, reaping orphans, and ending it when it stands still.
fn watch(pid: i32, heartbeat: Option<&Heartbeat>) -> Watched {
    let mut stop_by: Option<Instant> = None;
    let mut watch = Watch::default();
    let mut killed = false;
    loop {
        if let Some(end) = system::reap(pid) {
            return match (stop_by, killed) {
                (Some(_), _) => Watched::Stopped(end),
                (None, true) => Watched::Ended(Cause::Stalled, end),
                (None, false) => Watched::Ended(if end.is_signal() { Cause::Signal } else { Cause::Exit }, end),
            };
        }
        match system::next_signal(LOOK_EVERY) {
            Signal::Stop(number) => {
                system::send(pid, number);
                stop_by.get_or_insert(Instant::now() + STOP_GRACE);
            }
            Signal::Child => {}
            Signal::None if killed => {}
            Signal::None => {
                let promise_ns = heartbeat.map_or(0, Heartbeat::promise_ns);
                let stands_still = watch.stands_still(promise_ns, system::now_ns());
                if stands_still {
                    let late = system::now_ns().saturating_sub(promise_ns) as f64 / 1e9;
                    report::line("daemon stands still and is killed", &[("pid", pid.to_string()), ("late_seconds", format!("{late:.3}"))]);
                }
                if stands_still || stop_by.is_some_and(|at| at <= Instant::now()) {
                    system::send(pid, libc::SIGKILL);
                    killed = true;
                }
            }
        }
    }
}
