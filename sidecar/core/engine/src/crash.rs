//! Named places where a test lets the process die (feature `crash-points`): the state it leaves behind is what a successor must repair.

/// Abort here if `SPILLWAY_CRASH_AT` names this place. Nothing at all without the feature.
#[inline(always)]
pub fn point(name: &'static str) {
    #[cfg(feature = "crash-points")]
    if std::env::var("SPILLWAY_CRASH_AT").is_ok_and(|wanted| wanted == name) {
        std::process::abort();
    }
    #[cfg(not(feature = "crash-points"))]
    let _ = name;
}
