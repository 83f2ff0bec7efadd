//! One JSON line on stderr per event, in the daemon's own log format.

use std::io::Write;

/// Write one line. A closed stderr must not end PID 1, so a failed write is ignored.
pub fn line(event: &str, fields: &[(&str, String)]) {
    let mut text = format!("{{\"event\":{},\"level\":\"warning\",\"component\":\"supervisor\"", quoted(event));
    for (name, value) in fields {
        text.push_str(&format!(",{}:{}", quoted(name), quoted(value)));
    }
    text.push_str("}\n");
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control.is_control() => out.push_str(&format!("\\u{:04x}", control as u32)),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn quotes_what_json_must_escape() {
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }
}
