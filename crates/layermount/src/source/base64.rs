//! Base64 as RFC 4648 section 4 has it, for the inline `data` of descriptors (OCI image specification, `descriptor.md`).

/// `None` for anything but whole, padded groups of the standard alphabet.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let padding = bytes.iter().rev().take(2).take_while(|&&b| b == b'=').count();
    if !bytes.len().is_multiple_of(4) {
        return None;
    }
    let (digits, _) = bytes.split_at(bytes.len() - padding);
    let mut decoded = Vec::with_capacity(bytes.len() / 4 * 3);
    for group in digits.chunks(4) {
        let mut bits = 0u32;
        for &digit in group {
            bits = bits << 6 | value(digit)?;
        }
        // A short last group has its bits at the top of the 24.
        let missing = 4 - group.len();
        let [_, first, second, third] = (bits << (6 * missing)).to_be_bytes();
        decoded.extend([first, second, third].into_iter().take(3 - missing));
    }
    Some(decoded)
}

fn value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn the_vectors_of_rfc_4648() {
        for (text, bytes) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmE=", "fooba"), ("e30=", "{}")]
        {
            assert_eq!(decode(text).unwrap(), bytes.as_bytes());
        }
        for bad in ["Z", "Zg=", "Zg", "=", "====", "Zg==Zg==", "Zm9v\n", "Z-8="] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }
}
