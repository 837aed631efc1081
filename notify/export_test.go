package notify

import "crypto/tls"

// Wire returns a mail as it goes over the wire.
func Wire(m Mail) ([]byte, error) {
	msg, err := m.wire()
	return msg.raw, err
}

// Trust makes the sender accept a test's certificate.
func (s *SMTP) Trust(config *tls.Config) { s.tls = config }
