"""The gradients of one loop, compared with full backpropagation and the implicit gradient."""

from ..run import AuditedGradient as AuditedGradient
from ..run import Comparison as Comparison
from ..run import GradientAudit as GradientAudit
from ..run import Likeness as Likeness
from ._audit import REFERENCES as REFERENCES
from ._audit import GradientAuditor as GradientAuditor
from ._audit import default_gradients as default_gradients
from ._audit import gradient_audit as gradient_audit
from ._training import AUDITED as AUDITED
from ._training import audit_batch as audit_batch
from ._training import audit_line as audit_line
from ._training import audited_iterations as audited_iterations
from ._training import make_auditor as make_auditor
