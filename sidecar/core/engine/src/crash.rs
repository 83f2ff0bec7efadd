//! Named places where a test lets the process die (feature `crash-points`): the state it leaves behind is what a successor must repair.

/// Abort here at the n-th visit if `SPILLWAY_CRASH_AT` is `name:n`. Nothing at all without the feature.
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

    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static VISITS: AtomicU32 = AtomicU32::new(0);

    fn wanted() -> Option<(String, u32)> {
        let (name, visit) = std::env::var("SPILLWAY_CRASH_AT").ok()?.split_once(':').map(|(a, b)| (a.to_owned(), b.parse()))?;
        Some((name, visit.ok()?))
    }

    pub fn visit(name: &str) {
        if let Some((wanted, visit)) = WANTED.get_or_init(wanted)
            && wanted == name
            && VISITS.fetch_add(1, Ordering::Relaxed) + 1 == *visit
        {
            std::process::abort();
        }
    }
}
