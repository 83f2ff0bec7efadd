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
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        if let Some(seen) = look() {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited 20 s for {what}");
}

/// (restarts, pid) that the child of this life wrote.
fn life(file: &Path) -> Option<(u64, i32)> {
    let text = fs::read_to_string(file).ok()?;
    let (restarts, pid) = text.trim().split_once(' ')?;
    Some((restarts.parse().ok()?, pid.parse().ok()?))
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
    assert_eq!(restarts, 0);
    let killed = Instant::now();
    send(pid as u32, Signal::KILL);
    let (restarts, second) = wait_for("the second life", || life(&file).filter(|(_, other)| *other != pid));
    assert!(killed.elapsed() < Duration::from_secs(2), "the first restart does not wait");
    assert_eq!(restarts, 1);
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
