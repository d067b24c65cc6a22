//! The signal that stops a container: by CRI number, by an image's word for it, by Linux's number.

use cri::v1::{ContainerConfig, Signal};
use oci_spec::image::ImageConfiguration;

/// What no process can refuse.
pub(crate) const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
/// The first real-time signal that programs may use (the C library keeps two for itself), and the last.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// Names without “SIG”, at the index of their number on Linux (x86 and arm).
const NAMES: [&str; 32] = [
    "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
    "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH",
    "IO", "PWR", "SYS",
];

/// Other names of the same.
const ALIASES: [(&str, &str); 3] = [("IOT", "ABRT"), ("CLD", "CHLD"), ("POLL", "IO")];

/// The configuration's, else the image's, else SIGTERM. `Err`: the word that is no signal.
pub(crate) fn stop_signal(config: &ContainerConfig, image: &ImageConfiguration) -> Result<i32, String> {
    let configured = Signal::try_from(config.stop_signal).unwrap_or_default();
    if configured != Signal::RuntimeDefault {
        return from_cri(configured).ok_or_else(|| configured.as_str_name().into());
    }
    let of_image = image
        .config()
        .as_ref()
        .and_then(|c| c.stop_signal().clone())
        .unwrap_or_default();
    if of_image.is_empty() {
        Ok(SIGTERM)
    } else {
        parse(&of_image).ok_or(of_image)
    }
}

/// `SIGQUIT`, `quit`, `3`, `SIGRTMIN+3`.
fn parse(word: &str) -> Option<i32> {
    if let Ok(number) = word.parse() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(SIGRTMIN, offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(SIGRTMAX, offset);
    }
    let name = ALIASES
        .iter()
        .find(|(alias, _)| *alias == name)
        .map_or(name, |(_, name)| name);
    NAMES
        .iter()
        .position(|n| *n == name && !n.is_empty())
        .and_then(|n| i32::try_from(n).ok())
}

fn real_time(base: i32, offset: &str) -> Option<i32> {
    let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
    Some(base + offset).filter(|n| (SIGRTMIN..=SIGRTMAX).contains(n))
}

/// The CRI spells `SIGRTMIN+1` as `SIGRTMINPLUS1`.
fn from_cri(signal: Signal) -> Option<i32> {
    parse(&signal.as_str_name().replace("PLUS", "+").replace("MINUS", "-"))
}

/// The CRI's word for a number.
pub(crate) fn to_cri(number: i32) -> Signal {
    let name = match number {
        SIGRTMIN => "SIGRTMIN".into(),
        SIGRTMAX => "SIGRTMAX".into(),
        n if (SIGRTMIN..SIGRTMIN + 16).contains(&n) => format!("SIGRTMINPLUS{}", n - SIGRTMIN),
        n if (SIGRTMAX - 14..SIGRTMAX).contains(&n) => format!("SIGRTMAXMINUS{}", SIGRTMAX - n),
        n => match usize::try_from(n).ok().and_then(|n| NAMES.get(n)) {
            Some(name) => format!("SIG{name}"),
            None => String::new(),
        },
    };
    Signal::from_str_name(&name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (word, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("3", Some(3)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGPOLL", Some(29)),
            ("SIGNOTHING", None),
            ("0", None),
            ("65", None),
            ("SIG", None),
            ("RTMIN+31", None),
        ] {
            assert_eq!(parse(word), number, "{word}");
        }
    }

    #[test]
    fn every_signal_of_the_cri_has_a_number_and_comes_back() {
        for value in 1..=65 {
            let signal = Signal::try_from(value).unwrap();
            let number = from_cri(signal).unwrap_or_else(|| panic!("{}", signal.as_str_name()));
            assert_eq!(from_cri(to_cri(number)), Some(number), "{}", signal.as_str_name());
        }
    }
}
