//! The order of version strings (UAPI.10, Version Format Specification).

use std::cmp::Ordering;

/// Compares two versions by UAPI.10: `6.10.2 > 6.9`, `6.10~rc1 < 6.10`.
///
/// Any bytes may come in; what the specification does not list separates
/// components. Versions that differ in such bytes only are equal. `~` is
/// looked at before the end of a string, as systemd does: the text of the
/// specification has it the other way, but says that `~` sorts lower.
///
/// Nonsense such as `.a`, `.0^` and `.^` goes round in a circle by these
/// rules, so the order must not be given to `sort_by`, which may panic then:
/// insert with `insert_descending`.
pub fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        a = skip(a, |c| !is_version_byte(c));
        b = skip(b, |c| !is_version_byte(c));
        // Each mark: which side wins when only one string goes on with it.
        match marked(&mut a, &mut b, b'~') {
            Ordering::Equal => {}
            other => return other.reverse(),
        }
        if a.is_empty() || b.is_empty() {
            return a.len().cmp(&b.len());
        }
        for (mark, lower) in [(b'-', true), (b'^', false), (b'.', true)] {
            match marked(&mut a, &mut b, mark) {
                Ordering::Equal => {}
                other if lower => return other.reverse(),
                other => return other,
            }
        }
        let digits = |s: &[u8]| s.first().is_some_and(u8::is_ascii_digit);
        let order = if digits(a) || digits(b) {
            let (x, y) = (
                take(&mut a, |c| c.is_ascii_digit()),
                take(&mut b, |c| c.is_ascii_digit()),
            );
            let (x, y) = (skip(x, |c| c == b'0'), skip(y, |c| c == b'0'));
            x.len().cmp(&y.len()).then(x.cmp(y))
        } else {
            take(&mut a, |c| c.is_ascii_alphabetic()).cmp(take(&mut b, |c| c.is_ascii_alphabetic()))
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Puts `value` into `list` before all that are less than it and behind those
/// that are equal; `compare` need not be a total order.
pub(crate) fn insert_descending<T>(
    list: &mut Vec<T>,
    value: T,
    compare: impl Fn(&T, &T) -> Ordering,
) {
    let at = list.partition_point(|other| compare(other, &value).is_ge());
    list.insert(at, value);
}

fn is_version_byte(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"-.~^".contains(&c)
}

/// `Greater` if only `a` goes on with `mark`, `Less` if only `b` does. If both
/// do, it is skipped in both.
fn marked(a: &mut &[u8], b: &mut &[u8], mark: u8) -> Ordering {
    let (in_a, in_b) = (a.first() == Some(&mark), b.first() == Some(&mark));
    if in_a && in_b {
        *a = a.get(1..).unwrap_or_default();
        *b = b.get(1..).unwrap_or_default();
    }
    in_a.cmp(&in_b)
}

fn skip(s: &[u8], what: impl Fn(u8) -> bool) -> &[u8] {
    let n = s.iter().position(|&c| !what(c)).unwrap_or(s.len());
    s.split_at(n).1
}

fn take<'a>(s: &mut &'a [u8], what: impl Fn(u8) -> bool) -> &'a [u8] {
    let n = s.iter().position(|&c| !what(c)).unwrap_or(s.len());
    let (head, tail) = s.split_at(n);
    *s = tail;
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_specification_hold() {
        let table = [
            ("11", "==", "11"),
            ("systemd-123", "==", "systemd-123"),
            ("bar-123", "<", "foo-123"),
            ("123a", ">", "123"),
            ("123.a", ">", "123"),
            ("123.a", "<", "123.b"),
            ("123a", ">", "123.a"),
            ("11α", "==", "11β"),
            ("A", "<", "a"),
            ("", "<", "0"),
            ("0.", ">", "0"),
            ("0.0", ">", "0"),
            ("1_", "==", "1"),
            ("_1", "==", "1"),
            ("1_", "<", "1.2"),
            ("1_2_3", ">", "1.3.3"),
            ("1+", "==", "1"),
            ("+1", "==", "1"),
            ("1+", "<", "1.2"),
            ("1+2+3", ">", "1.3.3"),
            // Kernels as distributions name them.
            ("6.10.2-1.fc40.x86_64", ">", "6.9.11-200.fc40.x86_64"),
            ("6.1.0-38-amd64", ">", "6.1.0-9-amd64"),
            ("6.12~rc1", "<", "6.12"),
            ("6.12^git1", ">", "6.12"),
            ("6.12.0-0.rc3", "<", "6.12.1"),
            ("0-rescue-ffff", "<", "5.14.0"),
            ("007", "==", "7"),
            ("99999999999999999999999", "<", "100000000000000000000000"),
        ];
        for (a, sign, b) in table {
            let order = match sign {
                "<" => Ordering::Less,
                ">" => Ordering::Greater,
                _ => Ordering::Equal,
            };
            assert_eq!(compare(a.as_bytes(), b.as_bytes()), order, "{a} {sign} {b}");
        }
    }

    proptest! {
        #[test]
        fn the_order_is_antisymmetric(a in "[0-2aB.~^+-]{0,6}", b in "[0-2aB.~^+-]{0,6}") {
            let (a, b) = (a.as_bytes(), b.as_bytes());
            prop_assert_eq!(compare(a, b), compare(b, a).reverse());
            prop_assert_eq!(compare(a, a), Ordering::Equal);
        }

        #[test]
        fn any_versions_are_put_in_some_order(list in prop::collection::vec("[01a.~^]{0,3}", 0..60)) {
            let mut sorted = Vec::new();
            for version in &list {
                insert_descending(&mut sorted, version, |a, b| compare(a.as_bytes(), b.as_bytes()));
            }
            prop_assert_eq!(sorted.len(), list.len());
        }
    }
}
