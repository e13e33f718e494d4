"""What a processor says of itself."""
import pytest

from machine import processors


@pytest.fixture
def says(tmp_path, monkeypatch):
    """function(text): the system says this of the processor; None: it says nothing."""
    info = tmp_path / 'cpuinfo'
    monkeypatch.setattr(processors, 'CPU_INFO', str(info))
    return lambda text: None if text is None else info.write_text(text)


@pytest.mark.parametrize('text, kind', [
    ('processor\t: 0\nflags\t\t: fpu amx_bf16 avx512_bf16\n', 'amx'),
    ('processor\t: 0\nflags\t\t: fpu avx512_bf16 avx512f\n', 'avx512_bf16'),
    ('processor\t: 0\nflags\t\t: fpu avx512f\n', 'other'), ('processor\t: 0\nFeatures\t: asimd\n', 'other'),
    (None, 'other')])
def test_processors_are_of_three_kinds(says, text, kind):
    says(text)
    assert processors.processor_kind() == kind


@pytest.mark.parametrize('text, generation', [
    ('processor\t: 0\ncpu family\t: 25\nflags\t\t: fpu avx512_bf16\n', 'avx512_bf16-family-25'),
    ('processor\t: 0\ncpu family\t: 6\nflags\t\t: fpu amx_bf16\n', 'amx-family-6'), (None, 'other')])
def test_a_generation_is_a_kind_and_where_it_is_told_a_family(says, text, generation):
    says(text)
    assert processors.processor_generation() == generation


@pytest.mark.parametrize('text, name', [
    ('processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\n'
     'processor\t: 1\ncpu family\t: 26\nmodel name\t: another\n', 'AMD EPYC, family 25, model 17'),
    ('processor\t: 0\nBogoMIPS\t: 50.00\n', 'an unknown processor'), (None, 'an unknown processor')])
def test_a_processor_has_a_name_and_where_it_is_told_its_family_and_model(says, text, name):
    says(text)
    assert processors.processor_name() == name
