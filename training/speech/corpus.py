"""Synthetic speech with exact phone times: flite (English) and espeak-ng (many languages). Downloads nothing.

Sentences are drawn from the word lists below, or from random syllables, so that every phone meets every other.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np

from training.speech.visemes import ARPABET, Segment

TRAIN_VOICES = ("rms", "slt", "kal16", "kal")
HELD_OUT_VOICE = "awb"

_ENGLISH = """
about above across after again against air all almost alone along also always amber among angry animal answer apple
arm around arrive ask aunt autumn away baby back bad bag ball banana band bank basket bath beach beam bear beautiful
because become bed bee before begin behind believe below bench best better between beyond big bird bitter black blue
boat body bone book boot bottle bottom bought bowl box boy branch brave bread break bridge bring broken brother brown
brush bubble bucket build burn bus busy butter button buy by cabbage cake call calm camera camp can candle car card
careful carry castle cat catch cause chair change cheap cheese cherry chicken child choice choose church circle city
clean clever climb clock close cloud coat coffee coin cold colour come common cook copper corner cotton could count
cousin cover cow cream cross crowd cry cup curtain dance danger dark daughter day deep deer deliver desk different
dinner dirty dog door double down dream dress drink drive drop dry during dust each early earth easy eat edge egg eight
elbow empty engine enjoy enough evening every exactly eye face fair fall family famous far farm farmer fast father
favourite feather feel fence few field fifty fight find finger finish fire first fish five flag floor flower fly follow
food foot forest forget four fox free fresh friend frog from front fruit full funny garden gate gather gentle ghost
giant girl give glass glove go goat gold good grandma grass great green grey ground group grow guess guitar hair half
hammer hand happy hard harbour have head hear heart heavy help hen here hill hold holiday home honest honey hope horse
hospital hour house how hundred hungry hurry ice idea important improve inside iron island jacket jam job join joke
journey judge juice jump just keep kettle key kind king kitchen kite knee knife knock know ladder lake lamb lamp land
language large last late laugh law lazy leaf learn leather leave leg lemon lesson letter library lift light like lion
lip listen little live lock lonely long look loud love low lucky lunch machine make man many map march mark market
matter maybe meadow meal measure meat meet melon member memory middle milk million mind minute mirror miss mix model
moment money monkey month moon morning most mother motion mountain mouse mouth move much mud museum music must my name
narrow near neck need neighbour nephew never new next nice night nine nobody noise north nose nothing notice now number
oak ocean odd off often oil old onion only open orange other our out oven over own owl page paint pair palm pan paper
parcel pardon parent park part party pass past path patient pay peace pear pebble pencil people pepper perhaps person
phone photo piano picture piece pig pillow pink pipe place plan plant plate play please pleasure plum pocket point
polite pond pool poor popular possible potato pound pour power pretty price problem proud pull pump pupil puppy purple
push put puzzle queen question quick quiet quite rabbit race rain raise ready real red remember rescue rest rice rich
ride right ring river road rock roof room rope rose rough round royal rub rubber run sad safe sail salt same sand save
school science sea season second secret see seed sell send seven shade shadow shallow shape share sharp sheep shelf
shell shine ship shirt shoe shop short should shoulder shout show shower sick side silent silver simple since sing
sister sit six skin sky sleep slow small smell smile smoke smooth snow soap soft soldier some song soon sound soup
south space spoon spring square stable stair stamp star start station stay steam step still stomach stone stop storm
story straight strange street strong student sugar summer sun supper sure surprise sweet swim table tail take talk tall
taste teach team tell temple ten thank that theatre thick thief thin thing think third thirsty thirty thousand thread
three throw thumb thunder ticket tie time tiny tired to today together tomato tomorrow tongue too tooth top touch
towards tower town toy train travel treasure tree trip trouble true trumpet try turn twelve twenty two umbrella uncle
under until up use usual valley value van vegetable very village violin visit voice wagon wait walk wall want warm wash
watch water wave way weak wear weather week well west wet what wheel when where which while whisper white who whole why
wide wife wild window winter wise with wolf woman wonder wood wool word work world worry write wrong year yellow yes
yesterday you young your zebra zero zoo
"""
WORDS = tuple(_ENGLISH.split())

TEMPLATES = (
    "The {w} {w} {w} the {w} {w}.", "I {w} my {w} and {w} it by the {w}.", "Do you {w} a {w} {w}?",
    "{w}, {w}, and {w}.",
    "Maybe {w} will {w} before the {w} {w}.", "We {w} about {w} {w}, but the {w} was {w}.", "No! {w} {w}.",
    "When {w} is {w}, {w} and {w} are {w} too.", "{w} {w} {w} {w} {w} {w} {w}.", "What if the {w} {w} your {w}?",
    "Please {w} the {w}; her {w} moved {w} {w}.", "{w}.", "She {w} five {w} from the {w}, up and up.",
)  # fmt: skip

_SYLLABLE = (
    "b p m f v w t d n l r s z sh ch j k g h th y br pl fl st tr kl gr sm sp bl pr",
    "a e i o u ee oo ai oy ow ar er or ay oa",
)
_ONSETS, _NUCLEI = (part.split() for part in _SYLLABLE)
_CODAS = ("", "", "", "b", "p", "m", "f", "v", "t", "d", "n", "l", "s", "z", "k", "sh", "mp", "nt", "st", "ng")

ESPEAK = {
    "en-us": " ".join(WORDS),
    "en": " ".join(WORDS),
    "fr": """bonjour maman pomme beurre une lune rue peur deux chaise jouer beaucoup pain blanc vin bon moi toi nuit
    huit fenêtre soleil grand petit femme homme problème impossible musique voiture oiseau feuille rouge bleu vert
    chapeau manger parler vouloir demain aujourd'hui tombe ombre chambre plus peu pouvoir savoir heureux gentil""",
    "de": """Mutter Vater Baum schön müde Bücher über Apfel Pferd Weg Woche laut neu Häuser ich mich nicht machen
    Straße Zeit Kopf kommen bleiben sprechen Zimmer Milch Brot Butter Abend Morgen Frühling Vogel Wasser fünf zwölf
    möglich böse Bein Boot Blume Pumpe Lampe Himmel immer aber oben unten vielleicht jemand""",
    "ru": """мама папа мыла раму больше бабушка вода время человек жизнь сегодня завтра молоко хлеб масло рыба песня
    дорога утро ночь быстро пожалуйста спасибо любовь море поле книга школа улица письмо ребёнок помощь вопрос ответ
    мы были вы шли щука жёлтый чёрный юбка яблоко первый второй имя семь восемь""",
    "es": """mamá pueblo bueno mañana hombre mujer tiempo agua nube lluvia perro gato mesa libro feliz pequeño grande
    primavera verano también porque problema viaje campo mundo amigo noche cielo blanco verde caballo puerta""",
    "it": """mamma bambino bello problema giorno sempre amore cielo gnocchi sciarpa uomo donna acqua pane burro tempo
    primavera chiesa giallo bianco rosso libro gatto cane mangiare bere parlare campo tromba""",
    "cmn-latn-pinyin": """ma1 ma5 ba4 ba5 mai3 yi4 ben3 shu1 wo3 men5 peng2 you3 bu4 ming2 bai2 fei1 chang2 piao4
    liang5 jin1 tian1 ni3 hao3 xie4 xie5 qing3 wen4 zhong1 guo2 bei3 jing1 mi3 fan4 pin2 guo3 mu4 biao1 dian4 ying3
    nv3 ren2 lv4 se4 yu2 xue2 xiao4 zi4 ji3 shui3 hua1 duo1 mo4 bo1 pu2 fu4""",
    "pt-br": """mamãe bom dia problema menino mulher homem água pão campo tempo mundo também chuva peixe livro banana
    bonito pequeno cabeça avó coração palavra amigo verde branco""",
    "tr": """anne baba büyük küçük güzel öğretmen çocuk kapı pencere köpek balık üzüm ömür su ekmek bugün yarın bahçe
    mavi beyaz yeşil para kitap bulut""",
    "pl": """mama babcia brzoza człowiek miłość książka pies kobieta mąż szkoła życie woda chleb masło ptak pamięć
    bardzo proszę dobry wieczór mówić być""",
    "hi": """माँ बाप पानी किताब बच्चा फल बहुत अच्छा घर मेरा नाम भाषा सुबह शाम प्रेम बाज़ार मौसम""",
}
"""espeak-ng voices and the words each speaks."""

SHORTEST_PAUSE = 0.07
"""Seconds."""

STOPS = tuple("pbtdkgɡcɟqʈɖ")
STOP_CLOSURE = 0.045
"""Seconds before the burst: measured as the dip of loudness before espeak-ng's p, t and k."""

VARIANTS = ("", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+f1", "+f2", "+f3", "+f4", "+f5", "+klatt2")


def english(rng: np.random.Generator) -> str:
    """A sentence of real words, of made-up ones now and then."""
    template = str(rng.choice(TEMPLATES))
    count = template.count("{w}")
    words = [_nonsense(rng) if rng.random() < 0.2 else str(rng.choice(WORDS)) for _ in range(count)]
    return template.replace("{w}", "{}").format(*words)


def foreign(voice: str, rng: np.random.Generator) -> str:
    words = ESPEAK[voice].split()
    text = " ".join(str(rng.choice(words)) for _ in range(int(rng.integers(4, 11))))
    return text.replace(" ", ", ", 1) if rng.random() < 0.4 else text


def _nonsense(rng: np.random.Generator) -> str:
    parts = range(int(rng.integers(1, 4)))
    return "".join(str(rng.choice(_ONSETS)) + str(rng.choice(_NUCLEI)) + str(rng.choice(_CODAS)) for _ in parts)


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    with wave.open(str(path)) as f:
        return np.frombuffer(f.readframes(f.getnframes()), np.int16).astype(np.float32) / 32768, f.getframerate()


def flite(
    text: str, voice: str, stretch: float = 1.0, pitch: float | None = None
) -> tuple[np.ndarray, int, list[Segment]]:
    """(samples, rate, segments) of a sentence; end times are those of `flite -psdur`."""
    options = ["--setf", f"duration_stretch={stretch:.3f}"]
    options += ["--setf", f"int_f0_target_mean={pitch:.1f}"] if pitch else []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = ["flite", "-voice", voice, *options, "-psdur", "-o", str(path), "-t", text]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        sound, rate = read_wav(path)
    return sound, rate, flite_segments(printed)


def flite_segments(printed: str) -> list[Segment]:
    """Parses "pau:0.174 m:0.261 ..." (phone:end time)."""
    out, start = [], 0.0
    for phone, end in re.findall(r"(\S+):([\d.]+)", printed):
        out.append(Segment(ARPABET[phone], start, float(end)))
        start = float(end)
    return out


def with_closures(segments: list[Segment]) -> list[Segment]:
    """espeak-ng dates a stop by its burst; the closure before it is moved from the phone before to the stop."""
    out: list[Segment] = []
    for s in segments:
        if s.ipa[:1] not in STOPS or s.end - s.start < 0.015:
            out.append(s)
            continue
        shut = s.start - STOP_CLOSURE
        if out:
            out[-1] = replace(out[-1], end=max(min(out[-1].end, shut), out[-1].start))
        burst = s.start + 0.010
        out += [Segment(s.ipa, max(shut, 0.0), burst), Segment("h", burst, s.end)]
    return out


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _EventId),
    )  # fmt: skip


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """espeak-ng through its library (speak_lib.h), because only there the phones come with their samples."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libespeak-ng.so.1")
        synchronous, phoneme_events, in_ipa = 2, 1, 2
        self.rate = self._lib.espeak_Initialize(synchronous, 0, None, phoneme_events | in_ipa)
        self._sound: list[np.ndarray] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _CALLBACK(self._receive)
        self._lib.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count: int, events) -> int:
        if count > 0 and samples:
            self._sound.append(np.ctypeslib.as_array(samples, (count,)).copy())
        i = 0
        while events[i].type != 0:
            if events[i].type == 7:
                self._events.append((events[i].sample, events[i].id.string.decode("utf-8", "replace")))
            i += 1
        return 0

    def __call__(self, text: str, voice: str, speed: int, pitch: int) -> tuple[np.ndarray, int, list[Segment]]:
        self._sound.clear()
        self._events.clear()
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice}.")
        self._lib.espeak_SetParameter(1, speed, 0)
        self._lib.espeak_SetParameter(3, pitch, 0)
        data = text.encode() + b"\0"
        self._lib.espeak_Synth(data, len(data), 0, 1, 0, 1, None, None)
        self._lib.espeak_Synchronize()
        sound = np.concatenate(self._sound).astype(np.float32) / 32768
        ends = [*(s for s, _ in self._events[1:]), len(sound)]
        segments = [
            Segment(p, s / self.rate, e / self.rate) for (s, p), e in zip(self._events, ends, strict=True) if e > s
        ]
        # The library marks word ends as pauses too; what is too short to hear belongs to the phone before.
        heard = [s for s in segments if s.ipa or s.end - s.start > SHORTEST_PAUSE]
        return sound, self.rate, with_closures(heard)
