//! The real binary over real children.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// A supervisor that ends with its test, also with one that fails: it would hold the runner's output open for ever.
struct Supervisor(Child);

impl Supervisor {
    fn start(command: &[&str], stderr: Stdio) -> Self {
        let mut binary = Command::new(env!("CARGO_BIN_EXE_spillway-supervisor"));
        Self(binary.arg("--").args(command).stderr(stderr).spawn().expect("the supervisor starts"))
    }

    /// SIGTERM; the code that it ends with.
    fn stop(&mut self) -> Option<i32> {
        send(self.0.id(), Signal::TERM);
        self.0.wait().expect("it ends").code()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

fn supervise(script: &str) -> Supervisor {
    Supervisor::start(&["sh", "-c", script], Stdio::null())
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        if let Some(seen) = look() {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited 60 s for {what}");
}

/// (restarts by cause, pid) that the child of this life wrote.
fn life(file: &Path) -> Option<(String, i32)> {
    let text = fs::read_to_string(file).ok()?;
    let (restarts, pid) = text.trim().rsplit_once(' ')?;
    Some((restarts.to_owned(), pid.parse().ok()?))
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a pid is not 0");
    rustix::process::kill_process(pid, signal).expect("it runs");
}

/// A child that says who it is and then waits; the write is whole because of the rename.
fn patient(file: &Path) -> String {
    let file = file.display();
    format!("echo $SPILLWAY_DAEMON_RESTARTS $$ > {file}.tmp; mv {file}.tmp {file}; exec sleep 600")
}

#[test]
fn a_killed_daemon_is_restarted_and_told_how_often() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("life");
    let mut supervisor = supervise(&patient(&file));
    let (restarts, pid) = wait_for("the first life", || life(&file));
    assert_eq!(restarts, "exit=0 signal=0 stalled=0 not_started=0");
    let killed = Instant::now();
    send(pid as u32, Signal::KILL);
    let (restarts, second) = wait_for("the second life", || life(&file).filter(|(_, other)| *other != pid));
    assert!(killed.elapsed() < Duration::from_secs(2), "the first restart does not wait");
    assert_eq!(restarts, "exit=0 signal=1 stalled=0 not_started=0");
    assert_ne!(second, pid);
    assert_eq!(supervisor.stop(), Some(128 + 15), "the daemon's own end is passed on");
}

#[test]
fn a_missing_command_does_not_end_the_supervisor() {
    let mut supervisor = Supervisor::start(&["/nonexistent/daemon"], Stdio::piped());
    let stderr = supervisor.0.stderr.take().expect("piped");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
    for _ in 0..3 {
        let line = lines.next().expect("it goes on trying").expect("text");
        assert!(line.contains("cannot start /nonexistent/daemon"), "{line}");
    }
    assert!(supervisor.0.try_wait().expect("still ours").is_none());
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn sigterm_reaches_the_daemon_and_its_exit_code_is_the_containers() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ready");
    let mut supervisor = supervise(&format!("trap 'exit 7' TERM; touch {}; while :; do sleep 0.05; done", file.display()));
    wait_for("the daemon to listen", || file.exists().then_some(()));
    assert_eq!(supervisor.stop(), Some(7));
}

/// A child that says who it is, promises the supervisor another word within two seconds, and goes on as `then` says.
fn promising(file: &Path, then: &str) -> String {
    format!(
        r#"
import mmap, os, signal, sys, time
word = memoryview(mmap.mmap(int(os.environ["SPILLWAY_HEARTBEAT_FD"]), 8)).cast("Q")
def promise():
    word[0] = time.monotonic_ns() + 2_000_000_000
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open({name:?} + ".tmp", "w") as file:
    file.write(os.environ["SPILLWAY_DAEMON_RESTARTS"] + " " + str(os.getpid()))
os.rename({name:?} + ".tmp", {name:?})
promise()
{then}
"#,
        name = file.display().to_string(),
        deaf = if then == BUSY { "True" } else { "False" }
    )
}

/// Renews its promise for ever.
const TURNING: &str = "while True:\n    promise()\n    time.sleep(0.05)";
/// Stands still in a turn and does not listen.
const BUSY: &str = "while True:\n    pass";

fn supervise_promising(file: &Path, then: &str) -> Supervisor {
    Supervisor::start(&["python3", "-c", &promising(file, then)], Stdio::null())
}

#[test]
fn a_daemon_that_stands_still_in_a_turn_is_killed_and_restarted_and_the_cause_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("life");
    let mut supervisor = supervise_promising(&file, BUSY);
    let (_, first) = wait_for("the first life", || life(&file));
    let (restarts, second) = wait_for("the second life", || life(&file).filter(|(_, pid)| *pid != first));
    assert_eq!(restarts, "exit=0 signal=0 stalled=1 not_started=0");
    assert_ne!(first, second);
    supervisor.stop();
}

#[test]
fn a_stopped_daemon_is_killed_and_one_that_keeps_its_promises_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("life");
    let mut supervisor = supervise_promising(&file, TURNING);
    let (_, first) = wait_for("the first life", || life(&file));
    let watched = Instant::now();
    // More than one promise, and several looks of the supervisor.
    while watched.elapsed() < Duration::from_secs(5) {
        assert_eq!(life(&file).expect("it wrote").1, first, "restarted though it kept its promises");
        std::thread::sleep(Duration::from_millis(100));
    }
    send(first as u32, Signal::STOP);
    let (restarts, _) = wait_for("the second life", || life(&file).filter(|(_, pid)| *pid != first));
    assert_eq!(restarts, "exit=0 signal=0 stalled=1 not_started=0");
    assert_eq!(supervisor.stop(), Some(128 + 15));
}

#[test]
fn a_daemon_that_stands_still_and_ignores_sigterm_ends_within_the_bound() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("life");
    let mut supervisor = supervise_promising(&file, BUSY);
    wait_for("the first life", || life(&file));
    let asked = Instant::now();
    assert_eq!(supervisor.stop(), Some(128 + 9));
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
}

#[test]
fn the_daemon_has_no_signal_blocked() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("mask");
    let mut supervisor = Supervisor::start(&["cp", "/proc/self/status", &file.display().to_string()], Stdio::null());
    let blocked = wait_for("the daemon's mask", || {
        let text = fs::read_to_string(&file).ok()?;
        text.lines().find_map(|line| line.strip_prefix("SigBlk:").map(|mask| mask.trim().to_owned()))
    });
    supervisor.stop();
    assert_eq!(blocked, "0000000000000000");
}
