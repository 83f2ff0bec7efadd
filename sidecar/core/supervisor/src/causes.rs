//! Why daemons ended, counted for their successors: `exit=1 signal=0 stalled=2 not_started=0`.

/// Why a daemon ended.
#[derive(Clone, Copy, Debug)]
pub enum Cause {
    /// By itself.
    Exit,
    /// By a signal that was not ours: a crash, or the kernel for want of memory.
    Signal,
    /// It stood still, and we killed it.
    Stalled,
    /// There was nothing to start.
    NotStarted,
}

const NAMES: [&str; 4] = ["exit", "signal", "stalled", "not_started"];

impl Cause {
    /// As in the environment variable, the log and the metric.
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }
}

#[derive(Default)]
pub struct Causes([u64; NAMES.len()]);

impl Causes {
    pub fn count(&mut self, cause: Cause) {
        self.0[cause as usize] += 1;
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The value of the environment variable.
    pub fn render(&self) -> String {
        let each = NAMES.iter().zip(self.0).map(|(name, count)| format!("{name}={count}"));
        each.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_every_cause() {
        let mut causes = Causes::default();
        for cause in [Cause::Exit, Cause::Stalled, Cause::Stalled] {
            causes.count(cause);
        }
        assert_eq!(causes.render(), "exit=1 signal=0 stalled=2 not_started=0");
        assert_eq!(causes.total(), 3);
    }
}
