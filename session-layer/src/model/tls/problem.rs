//! What was wrong in a TLS handshake, by the error of rustls.

use rustls::{AlertDescription as Alert, CertificateError as Bad, Error};

/// The problem of a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsProblem {
    /// The server's certificate is of a CA that we do not know.
    UnknownCa,
    /// The server's certificate is for another name.
    OtherName,
    /// The server's certificate has expired.
    Expired,
    /// The server's certificate is not valid yet.
    NotValidYet,
    /// Anything else about the server's certificate.
    ServerCertificate,
    /// The server does not accept our certificate, or requires one.
    OurCertificate,
    /// Anything else.
    Handshake,
}

impl TlsProblem {
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(bad) => match bad {
                // A bad signature is that of another CA with the same name.
                Bad::UnknownIssuer | Bad::BadSignature => Self::UnknownCa,
                Bad::NotValidForName | Bad::NotValidForNameContext { .. } => Self::OtherName,
                Bad::Expired | Bad::ExpiredContext { .. } => Self::Expired,
                Bad::NotValidYet | Bad::NotValidYetContext { .. } => Self::NotValidYet,
                _ => Self::ServerCertificate,
            },
            Error::AlertReceived(
                Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnknownCA
                | Alert::CertificateUnknown
                | Alert::CertificateExpired
                | Alert::CertificateRevoked
                | Alert::UnsupportedCertificate
                | Alert::AccessDenied
                // A bad signature: it is of another CA with the same name.
                | Alert::DecryptError,
            ) => Self::OurCertificate,
            _ => Self::Handshake,
        }
    }

    /// Returns whether a later handshake may succeed although no setting is changed. A certificate
    /// may become valid or be renewed.
    #[cfg(feature = "postgres")]
    pub(crate) fn heals_by_waiting(self) -> bool {
        match self {
            Self::Expired | Self::NotValidYet | Self::Handshake => true,
            Self::UnknownCa | Self::OtherName | Self::ServerCertificate | Self::OurCertificate => {
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_is_that_of_the_certificate_that_was_refused() {
        for (error, problem) in [
            (Error::InvalidCertificate(Bad::UnknownIssuer), TlsProblem::UnknownCa),
            (Error::InvalidCertificate(Bad::BadSignature), TlsProblem::UnknownCa),
            (Error::InvalidCertificate(Bad::NotValidForName), TlsProblem::OtherName),
            (Error::InvalidCertificate(Bad::Expired), TlsProblem::Expired),
            (Error::InvalidCertificate(Bad::NotValidYet), TlsProblem::NotValidYet),
            (Error::InvalidCertificate(Bad::Revoked), TlsProblem::ServerCertificate),
            (Error::AlertReceived(Alert::CertificateRequired), TlsProblem::OurCertificate),
            (Error::AlertReceived(Alert::DecryptError), TlsProblem::OurCertificate),
            (Error::AlertReceived(Alert::ProtocolVersion), TlsProblem::Handshake),
            (Error::DecryptError, TlsProblem::Handshake),
        ] {
            assert_eq!(TlsProblem::of(&error), problem, "{error:?}");
        }
    }
}
