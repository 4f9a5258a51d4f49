//! Prints the definitions of the three kinds, ready for `kubectl apply -f -`.

use std::io::Write as _;

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    std::io::stdout().write_all(fairlead_crds::to_yaml()?.as_bytes())?;
    Ok(())
}
