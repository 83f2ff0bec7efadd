//! Named places where a test lets the process die or panic (feature `crash-points`): the state it leaves behind is what a successor must repair.

/// Abort here at the n-th visit if `SPILLWAY_CRASH_AT` is `name:n`, panic if `SPILLWAY_PANIC_AT` is. Nothing at all without the feature.
#[inline(always)]
pub fn point(name: &'static str) {
    #[cfg(feature = "crash-points")]
    armed::visit(name);
    #[cfg(not(feature = "crash-points"))]
    let _ = name;
}

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Point {
        wanted: OnceLock<Option<(String, u32)>>,
        visits: AtomicU32,
    }

    impl Point {
        const fn new() -> Self {
            Self { wanted: OnceLock::new(), visits: AtomicU32::new(0) }
        }

        fn is_here(&self, variable: &str, name: &str) -> bool {
            let Some((wanted, visit)) = self.wanted.get_or_init(|| wanted(variable)) else { return false };
            wanted == name && self.visits.fetch_add(1, Ordering::Relaxed) + 1 == *visit
        }
    }

    static CRASH: Point = Point::new();
    static PANIC: Point = Point::new();

    fn wanted(variable: &str) -> Option<(String, u32)> {
        let (name, visit) = std::env::var(variable).ok()?.split_once(':').map(|(a, b)| (a.to_owned(), b.parse()))?;
        Some((name, visit.ok()?))
    }

    pub fn visit(name: &str) {
        if CRASH.is_here("SPILLWAY_CRASH_AT", name) {
            std::process::abort();
        }
        assert!(!PANIC.is_here("SPILLWAY_PANIC_AT", name), "a test wants a panic at {name}");
    }
}
