//! Control files that never got a tag: which unknown ones are looked at next, and which are kept open to see them die.

use std::collections::HashMap;

use crate::control::{Ctl, Incarnation};

/// Engines can make any number of files: so many are opened per look, and so many that were refused are kept open. The rest gets its turn.
const MAX_MEETINGS: usize = 64;
const MAX_STRANGERS: usize = 64;

#[derive(Debug)]
struct Stranger {
    ctl: Ctl,
    free_since: Option<u64>,
}

/// Refused files that are open, and where the last look ended.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    kept: HashMap<Incarnation, Stranger>,
    met_last: Incarnation,
}

impl Strangers {
    /// Of the unknown ones those to open now, in a circle from where the last look ended.
    pub fn choose(&mut self, mut unknown: Vec<Incarnation>) -> Vec<Incarnation> {
        unknown.sort_unstable();
        let after = unknown.partition_point(|id| *id <= self.met_last);
        if after < unknown.len() {
            unknown.rotate_left(after);
        }
        unknown.truncate(MAX_MEETINGS);
        self.met_last = unknown.last().copied().unwrap_or(self.met_last);
        unknown
    }

    /// True for one that is open.
    pub fn contains(&self, id: &Incarnation) -> bool {
        self.kept.contains_key(id)
    }

    /// Keep a refused one open, if there is room.
    pub fn keep(&mut self, id: Incarnation, ctl: Ctl) {
        if self.kept.len() < MAX_STRANGERS {
            self.kept.insert(id, Stranger { ctl, free_since: None });
        }
    }

    /// Remove the files of those without a process for `grace_ns`.
    pub fn bury(&mut self, now_ns: u64, grace_ns: u64) {
        self.kept.retain(|_, stranger| {
            let is_dead = has_been_free(&mut stranger.free_since, &stranger.ctl, now_ns, grace_ns);
            if is_dead {
                // Gone already is as good.
                let _ = std::fs::remove_file(stranger.ctl.path());
            }
            !is_dead
        });
    }

    /// All that are open.
    pub fn take_all(&mut self) -> impl Iterator<Item = Ctl> {
        self.kept.drain().map(|(_, stranger)| stranger.ctl)
    }
}

/// True when no process has held a lock byte for `grace_ns`. One that attaches meanwhile starts the time anew.
pub(super) fn has_been_free(free_since: &mut Option<u64>, ctl: &Ctl, now_ns: u64, grace_ns: u64) -> bool {
    if ctl.is_held() {
        *free_since = None;
        return false;
    }
    now_ns.saturating_sub(*free_since.get_or_insert(now_ns)) >= grace_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> Incarnation {
        (number as u128).to_be_bytes()
    }

    #[test]
    fn each_unknown_file_has_its_turn_however_many_there_are() {
        let mut strangers = Strangers::default();
        let all: Vec<Incarnation> = (0..150).rev().map(id).collect();
        let looks: Vec<Vec<Incarnation>> = (0..3).map(|_| strangers.choose(all.clone())).collect();
        assert_eq!(looks.concat()[..64], (1..65).map(id).collect::<Vec<_>>());
        let mut seen = looks.concat();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!((seen.len(), looks.iter().all(|look| look.len() == MAX_MEETINGS)), (150, true));
        assert_eq!(strangers.choose(Vec::new()), Vec::<Incarnation>::new());
    }

    #[test]
    fn a_refused_file_is_kept_while_a_process_of_it_lives_and_only_so_many_are() {
        let run = tempfile::tempdir().expect("a temporary folder");
        let mut strangers = Strangers::default();
        for number in 0..=MAX_STRANGERS {
            strangers.keep(id(number), Ctl::create_or_open(run.path(), &id(number), 1, 1, -1).expect("a control file"));
        }
        assert!(strangers.contains(&id(0)) && !strangers.contains(&id(MAX_STRANGERS)));
        let mine = strangers.kept[&id(0)].ctl.path().to_owned();
        for ctl in [&strangers.kept[&id(0)].ctl, &strangers.kept[&id(1)].ctl] {
            ctl.unlock(-1);
        }
        strangers.kept[&id(1)].ctl.lock(0).expect("another role");
        strangers.bury(100, 10);
        assert!(strangers.contains(&id(0)), "it might come back");
        strangers.bury(110, 10);
        assert!(!strangers.contains(&id(0)) && !mine.exists());
        assert!(strangers.contains(&id(1)) && strangers.take_all().count() == MAX_STRANGERS - 1);
    }
}
