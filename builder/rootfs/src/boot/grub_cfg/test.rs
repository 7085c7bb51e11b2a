//! GRUB's `[ … ]` (GRUB manual, "test").

/// Whether an expression holds. `size` gives the length of a file, if it is
/// there. What is no expression does not hold.
pub(super) fn holds(words: &[String], size: &mut dyn FnMut(&str) -> Option<u64>) -> bool {
    // `-o` binds least, then `-a`, then `!`.
    let mut any = false;
    for alternative in words.split(|w| w == "-o") {
        let mut all = true;
        for term in alternative.split(|w| w == "-a") {
            all &= term_holds(term, size);
        }
        any |= all;
    }
    any
}

fn term_holds(words: &[String], size: &mut dyn FnMut(&str) -> Option<u64>) -> bool {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["!", rest @ ..] => {
            let rest: Vec<String> = rest.iter().map(|s| (*s).to_owned()).collect();
            !term_holds(&rest, size)
        }
        ["(", inner @ .., ")"] => {
            let inner: Vec<String> = inner.iter().map(|s| (*s).to_owned()).collect();
            holds(&inner, size)
        }
        ["-z", text] => text.is_empty(),
        ["-n", text] => !text.is_empty(),
        ["-s", path] => size(path).is_some_and(|len| len > 0),
        ["-f" | "-e", path] => size(path).is_some(),
        ["-d", _] => false,
        [text] => !text.is_empty(),
        [a, "=" | "==", b] => a == b,
        [a, "!=", b] => a != b,
        [a, "<", b] => a < b,
        [a, "<=", b] => a <= b,
        [a, ">", b] => a > b,
        [a, ">=", b] => a >= b,
        [a, operator, b] => {
            let number = |text: &str| text.parse::<i64>().unwrap_or(0);
            let (a, b) = (number(a), number(b));
            match *operator {
                "-eq" => a == b,
                "-ne" => a != b,
                "-lt" => a < b,
                "-le" => a <= b,
                "-gt" => a > b,
                "-ge" => a >= b,
                _ => false,
            }
        }
        _ => false,
    }
}
